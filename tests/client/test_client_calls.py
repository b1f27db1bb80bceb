"""Every call, over both clients, against a daemon that does as it is told."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from typing import get_args

import anyio
import httpx
import pytest
from anyio import to_thread

from renewer import ports
from renewer.client import (
    AsyncClient,
    BadRequest,
    Client,
    Conflict,
    LockLost,
    NotFound,
    Refused,
    Timeout,
    options,
)

LIMIT_S = 20


@pytest.fixture
def client(standin):
    with Client(standin.api, timeout=5, retry_for=0) as client:
        yield client


def test_the_status_is_read_and_what_is_new_is_kept_aside(client):
    status = client.status()
    assert (status.state, status.version, status.leases, status.limits) == ("ready", "9", {"held": 1}, {"leases": 3})
    assert status.min_margin_s is None
    assert status.document["new"] == [1]


def test_draining_is_answered_with_the_status_and_refuses_what_is_new(client):
    assert client.drain().state == "draining"
    with pytest.raises(Refused, match="draining") as caught:
        client.hold("orders", "c")
    assert (caught.value.status, caught.value.retry_after_s) == (429, 7.0)
    assert client.drain(enabled=False).state == "ready"


def test_a_lease_is_held_found_shown_and_released(standin, client):
    lease = client.hold("orders", "c", labels={"a": "b"}, owner="pid", pid=7, wait="5s")
    assert (lease.id, lease.state, lease.epoch, lease.is_held, lease.owner.kind) == ("lease-1", "held", 1, True, "pid")
    assert lease.locked_until_utc.tzinfo is UTC
    assert lease.labels == {"a": "b"}
    with pytest.raises(Conflict, match=r"kept already, by lease-1 \(owner pid") as caught:
        client.hold("orders", "c")
    assert caught.value.lease_id == "lease-1"
    assert client.renew("lease-1", timeout="3s").is_held
    client.release("lease-1")
    assert client.lease("lease-1", until="over", wait=5).is_over
    client.forget("lease-1")
    with pytest.raises(NotFound, match="nothing has this id"):
        client.lease("lease-1")


def test_the_same_key_finds_the_same_lease(standin, client):
    first = client.hold("orders", "c", idempotency_key="k", owner="heartbeat", owner_ttl="1m")
    assert client.hold("orders", "c", idempotency_key="k", owner="heartbeat", owner_ttl="1m").id == first.id
    assert client.hold("orders", idempotency_key="l").id != first.id


def test_a_lock_that_is_kept_for_nobody_is_found_again_by_the_same_wish_alone(client):
    first = client.hold("orders", "c", labels={"a": "b"})
    assert client.hold("orders", "c", labels={"a": "b"}).id == first.id
    with pytest.raises(Conflict, match="kept already"):
        client.hold("orders", "c", labels={"a": "c"})


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"owner_ttl": 5}, r"owner_ttl: goes with owner='connection' or 'heartbeat', not with 'none'"),
        ({"owner": "pid", "owner_ttl": 5}, "owner_ttl: goes with .*, not with 'pid'"),
        ({"owner": "heartbeat", "pid": 5}, "pid: goes with owner='pid', not with 'heartbeat'"),
        ({"wait": "bogus"}, "wait: must be seconds"),
    ],
)
def test_what_does_not_go_together_is_refused_by_its_name_before_it_is_sent(standin, client, wish, message):
    with pytest.raises(BadRequest, match=message):
        client.hold("orders", "c", **wish)
    assert standin.seen == []


def test_a_span_that_is_none_is_told_by_its_name(client):
    with pytest.raises(BadRequest, match=r"^wait: "):
        client.session("orders", wait="bogus")
    with pytest.raises(BadRequest, match=r"^reconnect_for: "):
        client.events(reconnect_for="bogus")
    with pytest.raises(BadRequest, match=r"^timeout: "):
        client.wait("op-1", timeout="bogus")


def test_a_lease_that_is_not_granted_in_time_is_returned_as_it_stands(standin, client):
    standin.grants = False
    assert client.hold("orders", "c", wait=0.1).state == "acquiring"
    assert client.lease("lease-1", wait=0.1).state == "acquiring"


def test_lists_are_read_page_after_page(standin, client):
    for number in range(5):
        client.hold("orders", f"c{number}")
    client.release("lease-3")
    assert [lease.number for lease in client.leases()] == [1, 2, 3, 4, 5]
    assert [lease.number for lease in client.leases(state=iter(["held"]), page_size=1)] == [1, 2, 4, 5]
    page = client.lease_page(limit=2, state="held", entity="orders", labels={"a": "b:c"}, sort="remaining")
    assert ([lease.number for lease in page.items], page.next) == ([1, 2], "2")
    assert standin.seen[-1].query == [
        ("state", "held"),
        ("entity", "orders"),
        ("label", "a:b:c"),
        ("sort", "remaining"),
        ("limit", "2"),
    ]


def test_state_and_heartbeats_of_a_lease(client):
    lease = client.hold("orders", "c", owner="heartbeat", owner_ttl="1m")
    client.set_state(lease.id, b"")
    assert client.get_state(lease.id) == b""
    client.set_state(lease.id, None)
    assert client.get_state(lease.id) is None
    assert client.heartbeat(lease.id).id == lease.id
    client.release(lease.id)
    with pytest.raises(Conflict, match="released"):
        client.get_state(lease.id)


def test_renewing_a_lease_that_is_lost_says_so(standin, client):
    client.hold("orders", "c")
    standin.tell("lease-1", "lease.lost", reason="expired")
    with pytest.raises(LockLost) as caught:
        client.renew("lease-1")
    assert (caught.value.reason, caught.value.status) == ("expired", 409)


def test_an_operation_is_submitted_followed_and_its_result_read(standin, client):
    operation = client.submit("POST", "/x", body={"a": None}, headers={"H": "v"}, deadline="1h", labels={"l": "v"})
    assert (operation.id, operation.state, operation.is_over) == ("op-1", "running", False)
    body = standin.seen[-1].json
    assert body == {
        "submit": {"method": "POST", "url": "/x", "headers": {"H": "v"}, "body": {"a": None}},
        "deadline": 3600.0,
        "labels": {"l": "v"},
    }
    with pytest.raises(Timeout, match=r"op-1 is running and has not ended in 0\.1 s"):
        client.wait("op-1", timeout=0.1)
    with pytest.raises(Conflict):
        client.result("op-1")
    standin.results["op-1"] = ("application/vnd.x+json; charset=utf-8", b'{"id":  1}')
    standin.end_operation("op-1")
    assert client.wait("op-1").succeeded
    result = client.result("op-1")
    assert (result.kind, result.content, result.json()) == ("json", b'{"id":  1}', {"id": 1})
    client.forget("op-1")
    with pytest.raises(NotFound):
        client.operation("op-1")


def test_bytes_and_no_result_are_results_too(standin, client):
    standin.add_operation("op-1", state="succeeded")
    standin.add_operation("op-2", state="succeeded")
    standin.results["op-2"] = ("application/octet-stream", b"\x00")
    assert (client.result("op-1").kind, client.result("op-1").json()) == ("none", None)
    assert (client.result("op-2").kind, client.result("op-2").content) == ("bytes", b"\x00")


def test_several_operations_are_waited_for(standin, client):
    for name in ("op-1", "op-2"):
        standin.add_operation(name)
    standin.end_operation("op-2", "failed")
    waited = client.wait_many(["op-1", "op-2", "op-9"], timeout=0.1)
    assert (waited.done, [item.id for item in waited.items], waited.missing) == (False, ["op-1", "op-2"], ("op-9",))
    assert client.wait_many(iter(["op-1", "op-2"]), until="any").done
    assert client.cancel("op-1").state == "canceled"
    assert [operation.state for operation in client.operations(page_size=1)] == ["canceled", "failed"]


def test_all_or_any_of_several_operations_are_waited_for_to_their_end(standin, client):
    for name in ("op-1", "op-2", "op-3"):
        standin.add_operation(name)
    with pytest.raises(Timeout, match=r"op-1, op-2 did not end in 0\.1 s; they are followed on"):
        client.wait_any(["op-1", "op-2"], timeout=0.1)
    standin.end_operation("op-2", "failed")
    assert [operation.id for operation in client.wait_any(iter(["op-1", "op-2", "op-3"]))] == ["op-2"]
    with pytest.raises(Timeout, match="op-1, op-3 did not end"):
        client.wait_all(["op-1", "op-2", "op-3"], timeout="100ms")
    standin.end_operation("op-1")
    standin.end_operation("op-3", "canceled")
    ended = client.wait_all(["op-3", "op-1", "op-2"])
    assert [(operation.id, operation.state) for operation in ended] == [
        ("op-3", "canceled"),
        ("op-1", "succeeded"),
        ("op-2", "failed"),
    ]


def test_who_waits_for_an_operation_that_there_is_not_is_told_at_once(standin, client):
    standin.add_operation("op-1")
    for wait in (client.wait_all, client.wait_any):
        with pytest.raises(NotFound, match=r"op-8, op-9: no such operation"):
            wait(["op-1", "op-8", "op-9"])
    with pytest.raises(NotFound, match=r"op-9 and 3 more"):
        client.wait_all([f"op-{number}" for number in range(5, 13)])


def test_how_an_operation_is_to_be_followed_is_told_to_the_daemon(standin, client):
    terms = {
        "protocol": "location",
        "final_state_via": "original-uri",
        "poll_query": {"api-version": "1"},
        "poll_headers": {"X-A": "b"},
    }
    client.submit("PUT", "/x", **terms, early_probe="2s")
    client.adopt("PUT", "/x", 202, **terms, early_probe=0)
    client.follow(httpx.Response(202, request=httpx.Request("PUT", "https://h/x")), **terms)
    told = [seen.json for seen in standin.seen]
    assert all(terms.items() <= document.items() for document in told)
    assert [document.get("early_probe") for document in told] == [2.0, 0.0, None]
    client.submit("PUT", "/x", poll_query={}, poll_headers={})
    assert standin.seen[-1].json.keys() == {"submit"}


def test_the_words_for_following_are_those_of_the_daemon():
    assert get_args(options.FollowProtocol) == get_args(ports.FollowProtocol)
    assert get_args(options.FinalStateVia) == get_args(ports.FinalStateVia)


def test_what_the_service_tells_of_an_operation_is_read(standin, client):
    standin.add_operation(
        "op-1",
        service_started_at="2026-01-01T00:00:00Z",
        service_updated_at=None,
        limited_by="fabric.main jobs",
    )
    operation = client.operation("op-1")
    assert operation.service_started_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert (operation.service_updated_at, operation.limited_by) == (None, "fabric.main jobs")


def test_an_answer_that_was_received_is_handed_over(standin, client):
    request = httpx.Request("POST", "https://api.fabric.microsoft.com/v1/x")
    response = httpx.Response(202, headers={"Location": "https://x/y", "Retry-After": "20"}, request=request)
    assert client.follow(response, account="fabric.main").id == "op-1"
    assert standin.seen[-1].json == {
        "account": "fabric.main",
        "adopt": {
            "method": "POST",
            "url": "https://api.fabric.microsoft.com/v1/x",
            "status": 202,
            "headers": {"location": "https://x/y", "retry-after": "20"},
        },
    }
    assert client.adopt("POST", "/x", 202, headers={"Location": "/y"}, body={"a": 1}).id == "op-2"


def test_what_cannot_be_written_is_refused_before_it_is_sent(standin, client):
    for attempt in (
        lambda: client.hold("orders", wait="soon"),
        lambda: client.hold("orders", wait=-1),
        lambda: client.hold("orders", wait=float("nan")),
        lambda: client.lease(""),
        lambda: client.lease(".."),
        lambda: client.submit("POST", "/x", body=object()),
        lambda: client.submit("POST", "/x", body=float("inf")),
        lambda: client.follow("no answer"),
    ):
        with pytest.raises(BadRequest):
            attempt()
    assert standin.seen == []


def test_an_option_that_there_is_not_is_a_mistake_and_not_passed_over(standin, client):
    for attempt in (
        lambda: client.hold("orders", "s", lock_duraton=5),
        lambda: client.hold_all("orders", ["s"], lock_duraton=5),
        lambda: client.session("orders", "s", lock_duraton=5),
        lambda: client.session("orders", "s", kind="message"),
        lambda: client.message_lock("orders", "t", reacquire=True),
        lambda: client.lease_page(entty="orders"),
        lambda: list(client.leases(entty="orders")),
        lambda: client.submit("POST", "/x", deadlin=5),
        lambda: client.adopt("POST", "/x", 202, deadlin=5),
        lambda: list(client.operations(accounts="fabric.main")),
    ):
        with pytest.raises(TypeError):
            attempt()
    assert standin.seen == []


@pytest.mark.anyio
async def test_the_async_client_makes_the_same_calls(standin):
    async with AsyncClient(standin.api, timeout=5, retry_for=0) as client:
        with anyio.fail_after(LIMIT_S):
            assert (await client.status()).state == "ready"
            for number in range(3):
                await client.hold("orders", f"c{number}")
            assert [lease.number async for lease in client.leases(page_size=2)] == [1, 2, 3]
            assert (await client.lease_page(limit=1)).next == "1"
            assert (await client.lease("lease-1", wait=1)).is_held
            assert (await client.renew("lease-1")).is_held
            await client.set_state("lease-1", b"x")
            assert await client.get_state("lease-1") == b"x"
            with pytest.raises(Conflict):
                await client.heartbeat("lease-1")
            await client.release("lease-1")
            await client.forget("lease-1")
            assert (await client.submit("POST", "/x")).id == "op-1"
            assert (await client.adopt("POST", "/x", 202)).id == "op-2"
            request = httpx.Request("POST", "https://h/x")
            assert (await client.follow(httpx.Response(202, request=request), wait=0.1)).id == "op-3"
            assert not (await client.wait_many(["op-1"], timeout=0.1)).done
            await to_thread.run_sync(standin.end_operation, "op-1")
            assert (await client.wait("op-1")).succeeded
            assert [operation.id for operation in await client.wait_all(["op-1"])] == ["op-1"]
            assert [operation.id for operation in await client.wait_any(["op-2", "op-1"])] == ["op-1"]
            assert (await client.operation("op-1")).succeeded
            assert (await client.result("op-1")).kind == "none"
            assert (await client.cancel("op-2")).state == "canceled"
            assert [item.id async for item in client.operations()] == ["op-1", "op-2", "op-3"]
            assert (await client.operation_page(limit=1)).next == "1"
            assert (await client.drain(enabled=False)).state == "ready"


def test_both_clients_have_the_same_methods_with_the_same_parameters():
    def surface(kind):
        return {
            name: [(p.name, p.kind, p.default) for p in inspect.signature(member).parameters.values()]
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") and name not in {"close", "aclose"}
        }

    assert surface(Client) == surface(AsyncClient)
    assert {"hold", "settle", "submit", "drain"} <= surface(Client).keys()
