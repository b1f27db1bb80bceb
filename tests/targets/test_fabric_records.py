"""Requests and tickets survive being stored."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.errors import RegistryError
from renewer.targets.fabric import Adopt, Submit, Ticket
from tests.targets.fabric_rig import RESULT_PATH, STATE_PATH, Rig

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
TEXTS = st.text(min_size=1)
HEADERS = st.dictionaries(TEXTS, st.text(), max_size=4)
PATHS = st.from_regex(r"/v1/[a-z0-9]{1,20}(\?[a-z0-9=&]{0,20})?", fullmatch=True)
ORIGINS = st.sampled_from(["https://x.w.api.fabric.microsoft.com", "http://127.0.0.1:8323", "https://[::1]:8443"])

SUBMIT = {"v": 1, "how": "submit", "method": "POST", "url": "/secret", "headers": {}, "body": None}


def stored(document: object) -> object:
    """What comes back from a registry that keeps JSON."""
    return json.loads(json.dumps(document))


@given(
    st.builds(Submit, TEXTS, TEXTS, HEADERS, VALUES) | st.builds(Adopt, TEXTS, TEXTS, st.integers(), HEADERS, VALUES)
)
def test_a_request_is_loaded_as_it_was_dumped(request: Submit | Adopt) -> None:
    target = Rig().target
    assert target.load_request(stored(target.dump_request(request))) == request


@given(st.none() | st.builds(Ticket, PATHS, st.none() | PATHS, st.none() | ORIGINS))
def test_a_ticket_is_loaded_as_it_was_dumped(ticket: Ticket | None) -> None:
    target = Rig().target
    assert target.load_ticket(stored(target.dump_ticket(ticket))) == ticket


def test_the_stored_form_is_fixed() -> None:
    target = Rig().target
    assert target.dump_request(Submit("POST", "/a", {"X": "y"}, [1])) == {
        "v": 1,
        "how": "submit",
        "method": "POST",
        "url": "/a",
        "headers": {"X": "y"},
        "body": [1],
    }
    assert target.dump_request(Adopt("POST", "/a", 202, {}, None)) == {
        "v": 1,
        "how": "adopt",
        "status": 202,
        "method": "POST",
        "url": "/a",
        "headers": {},
        "body": None,
    }
    assert target.dump_ticket(Ticket(STATE_PATH, RESULT_PATH)) == {
        "v": 1,
        "path": STATE_PATH,
        "result_path": RESULT_PATH,
        "origin": None,
    }


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "text",
        {},
        {**SUBMIT, "v": 2},
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
        {"v": 2, "path": "/secret"},
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
