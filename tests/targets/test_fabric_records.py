"""Requests and tickets survive being stored."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.errors import RegistryError
from renewer.ports import FollowTerms
from renewer.targets.fabric import Ticket
from renewer.targets.rest import Adopt, Submit
from renewer.targets.rest.cookies import Cookie
from tests.targets.fabric_rig import RESULT_PATH, STATE_PATH, Rig

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
TEXTS = st.text(min_size=1)
HEADERS = st.dictionaries(TEXTS, st.text(), max_size=4)
COOKIES = st.lists(
    st.builds(
        Cookie,
        TEXTS,
        st.text(),
        st.sampled_from(["https://x.w.api.fabric.microsoft.com", "http://127.0.0.1:8323"]),
        st.just("/v1"),
        st.none() | st.floats(0, 1e12),
    ),
    max_size=3,
).map(tuple)
TERMS = st.builds(
    FollowTerms,
    st.sampled_from(["auto", "operation-location", "azure-async-operation", "location", "body"]),
    st.none() | st.sampled_from(["operation-location", "azure-async-operation", "location", "original-uri"]),
    HEADERS,
    HEADERS,
)
PATHS = st.from_regex(r"/v1/[a-z0-9]{1,20}(\?[a-z0-9=&]{0,20})?", fullmatch=True)
ORIGINS = st.sampled_from(["https://x.w.api.fabric.microsoft.com", "http://127.0.0.1:8323", "https://[::1]:8443"])

SUBMIT = {"v": 1, "how": "submit", "method": "POST", "url": "/secret", "headers": {}, "body": None}


TERMS_STORED = {"protocol": "auto", "final_state_via": None, "poll_query": {}, "poll_headers": {}}
TICKET = {"v": 2, "path": "/v1/secret", "query": {}, "headers": {}, "cookies": []}
COOKIE = {"name": "a", "value": "secret", "origin": "https://h.example", "path": "/", "expires_at": None}


def stored(document: object) -> object:
    """What comes back from a registry that keeps JSON."""
    return json.loads(json.dumps(document))


@given(
    st.builds(Submit, TEXTS, TEXTS, HEADERS, VALUES, TERMS)
    | st.builds(Adopt, TEXTS, TEXTS, st.integers(), HEADERS, VALUES, TERMS)
)
def test_a_request_is_loaded_as_it_was_dumped(request: Submit | Adopt) -> None:
    target = Rig().target
    assert target.load_request(stored(target.dump_request(request))) == request


@given(st.none() | st.builds(Ticket, PATHS, st.none() | PATHS, st.none() | ORIGINS, HEADERS, HEADERS, COOKIES))
def test_a_ticket_is_loaded_as_it_was_dumped(ticket: Ticket | None) -> None:
    target = Rig().target
    assert target.load_ticket(stored(target.dump_ticket(ticket))) == ticket


def test_the_stored_form_is_fixed() -> None:
    target = Rig().target
    terms = {"protocol": "auto", "final_state_via": None, "poll_query": {"beta": "true"}, "poll_headers": {"A": "b"}}
    assert target.dump_request(Submit("POST", "/a", {"X": "y"}, [1], FollowTerms(**terms))) == {
        "v": 2,
        "how": "submit",
        "method": "POST",
        "url": "/a",
        "headers": {"X": "y"},
        "body": [1],
        "terms": terms,
    }
    assert target.dump_request(Adopt("POST", "/a", 202, {}, None)) == {
        "v": 2,
        "how": "adopt",
        "status": 202,
        "method": "POST",
        "url": "/a",
        "headers": {},
        "body": None,
        "terms": {"protocol": "auto", "final_state_via": None, "poll_query": {}, "poll_headers": {}},
    }
    cookies = (Cookie("c", "v", "https://h.example", "/v1", 1e9),)
    assert target.dump_ticket(Ticket(STATE_PATH, RESULT_PATH, None, {"beta": "true"}, {"A": "b"}, cookies)) == {
        "v": 2,
        "path": STATE_PATH,
        "result_path": RESULT_PATH,
        "origin": None,
        "query": {"beta": "true"},
        "headers": {"A": "b"},
        "cookies": [{"name": "c", "value": "v", "origin": "https://h.example", "path": "/v1", "expires_at": 1e9}],
    }


def test_what_an_earlier_version_stored_is_read() -> None:
    target = Rig().target
    assert target.load_request({**SUBMIT, "v": 1}) == Submit("POST", "/secret")
    adopted = {**SUBMIT, "how": "adopt", "status": 202}
    assert target.load_request(adopted) == Adopt("POST", "/secret", 202)
    stored_ticket = {"v": 1, "path": STATE_PATH, "result_path": RESULT_PATH, "origin": None}
    assert target.load_ticket(stored_ticket) == Ticket(STATE_PATH, RESULT_PATH)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "text",
        {},
        {**SUBMIT, "v": 3},
        {**SUBMIT, "v": True},
        {**SUBMIT, "v": 2},
        {**SUBMIT, "v": 2, "terms": ["secret"]},
        {**SUBMIT, "v": 2, "terms": {**TERMS_STORED, "protocol": "secret"}},
        {**SUBMIT, "v": 2, "terms": {**TERMS_STORED, "final_state_via": 7}},
        {**SUBMIT, "v": 2, "terms": {**TERMS_STORED, "poll_query": {"secret": 7}}},
        {**SUBMIT, "v": 2, "terms": {**TERMS_STORED, "poll_headers": None}},
        {**SUBMIT, "how": "guess"},
        {**SUBMIT, "how": "adopt"},
        {**SUBMIT, "how": "adopt", "status": "202"},
        {**SUBMIT, "status": 202},
        {**SUBMIT, "method": None},
        {**SUBMIT, "url": ["/secret"]},
        {**SUBMIT, "headers": None},
        {**SUBMIT, "headers": {"a": 1}},
        {**SUBMIT, "headers": ["secret"]},
    ],
)
def test_a_request_that_cannot_be_read_is_the_registrys_fault(document: object) -> None:
    with pytest.raises(RegistryError) as wrong:
        Rig().target.load_request(document)
    assert "secret" not in str(wrong.value)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {**TICKET, "v": 3},
        {**TICKET, "query": None},
        {**TICKET, "headers": {"a": 1}},
        {**TICKET, "cookies": None},
        {**TICKET, "cookies": "secret"},
        {**TICKET, "cookies": ["secret"]},
        {**TICKET, "cookies": [{**COOKIE, "name": ""}]},
        {**TICKET, "cookies": [{**COOKIE, "value": None}]},
        {**TICKET, "cookies": [{**COOKIE, "origin": "secret"}]},
        {**TICKET, "cookies": [{**COOKIE, "expires_at": "secret"}]},
        {"v": 1},
        {"v": 1, "path": ""},
        {"v": 1, "path": 7},
        {"v": 1, "path": "https://evil.example.com/secret"},
        {"v": 1, "path": "//evil.example.com/secret"},
        {"v": 1, "path": "/v1/../secret"},
        {"v": 1, "path": "/v1/secret\r\nX: y"},
        {"v": 1, "path": "/v1/x", "result_path": "secret"},
        {"v": 1, "path": "/v1/x", "result_path": 7},
        {"v": 1, "path": "/v1/x", "origin": "secret"},
        {"v": 1, "path": "/v1/x", "origin": "https://user:secret@x"},
    ],
)
def test_a_ticket_that_cannot_be_read_is_the_registrys_fault(document: object) -> None:
    with pytest.raises(RegistryError) as wrong:
        Rig().target.load_ticket(document)
    assert "secret" not in str(wrong.value)


def test_what_is_not_ours_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError):
        Rig().target.dump_request({"url": "/x"})
    with pytest.raises(TypeError):
        Rig().target.dump_ticket("ticket")
