"""Tickets and requests as the registry has them."""

import json

import pytest

from renewer.errors import RegistryError
from renewer.ports import FollowTerms
from renewer.targets.azure.tickets import dump_ticket, load_ticket
from renewer.targets.rest import Adopt, Submit
from renewer.targets.rest.cookies import Cookie
from tests.targets.azure_rig import HOST, RESULT_AT, URL, AzureRig, ticket

FULL = ticket(
    "location",
    "DELETE",
    location=f"{HOST}/l?sig=1",
    result=RESULT_AT,
    final_state_via="original-uri",
    query={"api-version": "1"},
    headers={"x-ms-client-request-id": "r"},
    cookies=(Cookie("a", "b", HOST, "/p", 12.5),),
)


def stored(document):
    return json.loads(json.dumps(document))


@pytest.mark.parametrize("one", [FULL, ticket(), ticket("body"), ticket("operation-location", "POST")])
def test_a_ticket_comes_back_as_it_was(one):
    assert load_ticket(stored(dump_ticket(one))) == one


def test_no_ticket_comes_back_as_none():
    target = AzureRig().target
    assert target.load_ticket(target.dump_ticket(None)) is None


def test_what_is_no_ticket_of_ours_is_not_dumped():
    with pytest.raises(TypeError):
        AzureRig().target.dump_ticket("a ticket")


@pytest.mark.parametrize(
    "damage",
    [
        {"v": 2},
        {"v": True},
        {"v": None},
        {"protocol": "auto"},
        {"protocol": ["body"]},
        {"method": "BREW"},
        {"method": {}},
        {"asked": "/path"},
        {"asked": None},
        {"poll": "ftp://x/y"},
        {"poll": "https://u@x/y"},
        {"location": 5},
        {"location": "nowhere"},
        {"result": ""},
        {"final_state_via": "elsewhere"},
        {"final_state_via": {}},
        {"query": {"a": 1}},
        {"query": None},
        {"headers": []},
        {"cookies": None},
        {"cookies": [{"name": "a"}]},
    ],
)
def test_a_damaged_ticket_is_refused_and_not_shown(damage):
    with pytest.raises(RegistryError) as caught:
        load_ticket({**stored(dump_ticket(FULL)), **damage})
    assert "sig" not in str(caught.value)


@pytest.mark.parametrize("document", [5, "x", [], {}])
def test_what_is_no_ticket_at_all_is_refused(document):
    with pytest.raises(RegistryError):
        load_ticket(document)


@pytest.mark.parametrize(
    "request_",
    [
        Submit("PUT", URL, {"Operation-Id": "1"}, {"n": None}, FollowTerms("body", "location", {"a": "1"}, {"b": "2"})),
        Adopt("POST", URL, 202, {"Location": RESULT_AT}, "text", FollowTerms("location")),
    ],
)
def test_a_request_comes_back_with_its_terms(request_):
    target = AzureRig().target
    assert target.load_request(stored(target.dump_request(request_))) == request_
