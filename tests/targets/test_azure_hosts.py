"""URLs that answers name: how they are read, and which of them anything is sent to."""

import pytest

from renewer.core.model import StillRunning, Succeeded
from renewer.targets.azure.urls import RefusedUrlError, place_of, resolve
from renewer.targets.rest import Place
from tests.targets.azure_rig import (
    ASKED,
    FOREIGN,
    HOST,
    MONITOR,
    PRODUCT,
    AzureRig,
    answer,
    azure_options,
    monitored,
    says,
    ticket,
)

pytestmark = pytest.mark.anyio

BASE = place_of(azure_options(), f"{HOST}/a/b/c?api-version=1")

NOT_ALLOWED = [
    f"{FOREIGN}/x",
    "//evil.example.net/x",
    "http://management.azure.com/x",
    "https://management.azure.com:8443/x",
    "https://management.azure.com.evil.example.net/x",
    "https://169.254.169.254/metadata/identity",
]
NOT_USABLE = [
    "https://management.azure.com@evil.example.net/x",
    "https://user:pw@management.azure.com/x",
    "ftp://management.azure.com/x",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "https://management.azure.com\\@evil.example.net/x",
    "\\\\evil.example.net\\x",
    "https:///x",
    "https:x",
    "https://[::1/x",
    "https://management.azure.com/%2e%2e/x",
    "https://2130706433/x",
    "/" + "x" * 9000,
]
WAYS = {"Operation-Location": "GET", "Azure-AsyncOperation": "PUT", "Location": "POST"}


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        (f"{HOST}/x?y=1", f"{HOST}/x?y=1"),
        ("/x", f"{HOST}/x"),
        ("x", f"{HOST}/a/b/x"),
        ("../x/", f"{HOST}/a/x/"),
        ("?y=2", f"{HOST}/a/b/c?y=2"),
        ("//management.azure.com/x", f"{HOST}/x"),
        (f"{HOST}:443/x", f"{HOST}:443/x"),
        ("HTTPS://Management.Azure.COM/x", "HTTPS://Management.Azure.COM/x"),
        (f"{HOST}/locations/West US/o1", f"{HOST}/locations/West%20US/o1"),
        (f"{HOST}/ä%20x#part", f"{HOST}/%C3%A4%20x"),
        (HOST, HOST),
    ],
)
def test_references_are_resolved_against_what_they_answered(reference, url):
    assert resolve(BASE, reference) == url
    assert place_of(azure_options(), url).origin == BASE.origin


@pytest.mark.parametrize("reference", NOT_ALLOWED)
def test_a_host_that_may_not_see_the_token_is_named(reference):
    with pytest.raises(RefusedUrlError) as caught:
        place_of(azure_options(), resolve(BASE, reference))
    assert caught.value.code == "HostNotAllowed"


@pytest.mark.parametrize("reference", NOT_USABLE)
def test_what_could_be_read_in_two_ways_is_no_url(reference):
    with pytest.raises(RefusedUrlError) as caught:
        place_of(azure_options(), resolve(BASE, reference))
    assert caught.value.code == "UrlNotUsable"
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("header", WAYS)
@pytest.mark.parametrize("reference", [*NOT_ALLOWED, *NOT_USABLE])
async def test_a_first_answer_that_leads_elsewhere_ends_as_unpollable_and_nothing_is_sent_there(header, reference):
    rig = AzureRig().answers(answer(202, None, {header: reference}))
    ended = await rig.submit("POST")
    assert ended.outcome == "unpollable"
    assert ended.error["errorCode"] in ("HostNotAllowed", "UrlNotUsable")
    assert "accepted" in ended.error["message"]
    assert rig.urls == [ASKED]


async def test_the_end_says_which_host_and_where_to_allow_it():
    ended = await AzureRig().answers(answer(202, None, {"Location": f"{FOREIGN}/x?sig=SECRET"})).submit("POST")
    assert f"{FOREIGN}," in ended.error["message"]
    assert "add it to allow_hosts of [azure.main]" in ended.error["message"]
    assert "SECRET" not in str(ended)


async def test_an_allowed_host_is_asked_as_it_was_named():
    rig = AzureRig(azure_options(allow_hosts=("*.ops.example.com",)))
    rig.answers(answer(202, None, {"Operation-Location": "https://eu.ops.example.com/o1"}), says("Running"))
    running = await rig.submit("POST")
    await rig.poll(running.ticket)
    assert rig.urls[1] == "https://eu.ops.example.com/o1"


async def test_relative_urls_of_a_later_answer_belong_to_its_own_host():
    rig = AzureRig(azure_options(allow_hosts=("ops.example.com",)))
    rig.answers(says("Running", {"Operation-Location": "o2"}), says("Succeeded", resourceLocation="/r"))
    running = await rig.poll(ticket("operation-location", "POST", poll="https://ops.example.com/x/o1"))
    assert running.ticket.poll == "https://ops.example.com/x/o2"
    assert (await rig.poll(running.ticket)).ticket.result == "https://ops.example.com/r"


@pytest.mark.parametrize("reference", [*NOT_ALLOWED, *NOT_USABLE])
async def test_a_result_elsewhere_is_not_fetched_and_the_operation_succeeded_all_the_same(reference):
    rig = AzureRig().answers(monitored(), says("Succeeded", resourceLocation=reference))
    running = await rig.submit("PUT")
    done = await rig.poll(running.ticket)
    assert isinstance(done, Succeeded)
    result = await rig.fetch(done.ticket) if done.result is None else done.result
    assert result.kind == "none"
    assert "the service names" in result.problem
    assert rig.urls == [ASKED, MONITOR]


async def test_a_location_that_is_not_needed_may_be_anything():
    followed = await AzureRig().follow(
        "PUT", monitored(202, None, Location="https://u:p@x/"), says("Succeeded"), answer(200, PRODUCT)
    )
    assert followed.left == PRODUCT


async def test_a_location_elsewhere_that_would_have_the_result_is_not_asked():
    rig = AzureRig()
    followed = await rig.follow("POST", monitored(202, None, Location=f"{FOREIGN}/r"), says("Succeeded"))
    assert followed.outcome == "succeeded"
    assert FOREIGN in followed.result.problem
    assert all(url.startswith(HOST) for url in rig.urls)


async def test_redirects_are_not_followed():
    rig = AzureRig()
    rig.answers(answer(307, None, {"Location": f"{FOREIGN}/x"}))
    ended = await rig.submit("POST")
    assert (ended.outcome, ended.error["errorCode"]) == ("rejected", "Redirected")
    assert rig.urls == [ASKED]


async def test_cookies_stay_with_the_host_that_set_them():
    rig = AzureRig(azure_options(allow_hosts=("ops.example.com",)))
    first = answer(202, None, {"Location": "https://ops.example.com/o1", "Set-Cookie": "a=1; Domain=.com; Path=/"})
    rig.answers(first, answer(202))
    running = await rig.submit("POST")
    assert isinstance(running, StillRunning)
    await rig.poll(running.ticket)
    assert "cookie" not in rig.requests[1].headers


def test_places_are_shown_without_their_query():
    assert "SECRET" not in str(Place(BASE.origin, "/x?sig=SECRET"))
