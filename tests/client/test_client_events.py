"""Event streams, over as many connections as it takes."""

from __future__ import annotations

import threading

import anyio
import pytest
from anyio import to_thread

from renewer.client import AsyncClient, Client, NotFound, ProtocolError, Unavailable
from tests.client.rawserver import RawServer, answer

LIMIT_S = 20


@pytest.fixture
def client(standin):
    with Client(standin.api, timeout=5, retry_for=0) as client:
        yield client


def reading(standin):
    standin.until(lambda: bool(standin.requests("GET", "/v1/events")))


def test_events_go_on_after_the_last_one_when_the_stream_breaks(standin, client):
    client.hold("orders", "c")
    with client.events(types=["lease"], subjects="lease-1", after="1-0") as events:
        first = next(events)
        assert (first.type, first.subject, first.id, first.data["epoch"]) == ("lease.acquired", "lease-1", "1-1", 1)
        assert first.time is not None
        standin.break_streams()
        standin.tell("lease-1", "lease.renewed", margin_s=1.5)
        assert next(events).data["margin_s"] == 1.5
        standin.kill()
        standin.start()
        standin.tell("lease-1", "lease.released")
        assert next(events).id == "1-3"
    streams = standin.requests("GET", "/v1/events")
    assert [seen.headers.get("last-event-id") for seen in streams[:2]] == ["1-0", "1-1"]
    assert streams[-1].headers["last-event-id"] == "1-2"
    assert streams[0].query == [("type", "lease"), ("subject", "lease-1")]


def test_a_daemon_that_is_not_there_at_first_is_an_error(standin, client):
    standin.kill()
    with client.events() as events, pytest.raises(Unavailable, match="renewer run"):
        next(events)


def test_a_daemon_that_stays_away_is_an_error_where_one_says_for_how_long(standin, client):
    client.hold("orders", "c")
    with client.events(after="1-0", reconnect_for=0.2) as events:
        next(events)
        standin.kill()
        with pytest.raises(Unavailable):
            next(events)


def test_a_stream_can_be_closed_by_another_thread(standin, client):
    events = client.events()
    closer = threading.Thread(target=lambda: (reading(standin), events.close()))
    closer.start()
    assert list(events) == []
    closer.join()


def test_one_lease_is_watched_until_it_is_over(standin, client):
    lease = client.hold("orders", "c")
    with client.watch(lease.id) as events:
        assert next(events).lease.id == lease.id
        standin.tell(lease.id, "lease.renewed")
        standin.tell(lease.id, "lease.released")
        assert [event.type for event in events] == ["lease.renewed", "lease.released"]
    assert [event.type for event in client.watch(lease.id)] == ["snapshot"]
    refused = client.watch("lease-9")
    with pytest.raises(NotFound):
        next(refused)
    assert refused._stream is None


@pytest.mark.parametrize(
    "raw",
    [
        answer(200, b'{"state": "ready"}'),
        answer(200, b"event: x\ndata: no json\n\n", "text/event-stream"),
        answer(200, b"event: x\ndata: [1]\n\n", "text/event-stream"),
    ],
)
def test_something_that_is_no_stream_of_events_is_an_error(raw):
    with (
        RawServer([raw]) as server,
        Client(f"tcp:127.0.0.1:{server.port}") as client,
        client.events() as events,
        pytest.raises(ProtocolError),
    ):
        next(events)


@pytest.mark.anyio
async def test_the_async_client_streams_alike(standin):
    async with AsyncClient(standin.api, timeout=5, retry_for=0) as client:
        with anyio.fail_after(LIMIT_S):
            await client.hold("orders", "c")
            async with client.events(after="1-0") as events:
                assert (await anext(events)).id == "1-1"
                await to_thread.run_sync(standin.break_streams)
                await to_thread.run_sync(lambda: standin.tell("lease-1", "lease.renewed"))
                assert (await anext(events)).id == "1-2"
            async with client.watch("lease-1") as events:
                assert (await anext(events)).lease.is_held
                await client.release("lease-1")
                assert [event.type async for event in events] == ["lease.released"]
            refused = client.watch("lease-9")
            with pytest.raises(NotFound):
                await anext(refused)
            assert refused._stream is None
            async with client.events() as events:
                with anyio.move_on_after(0.1) as scope:
                    await anext(events)
                assert scope.cancelled_caught
            await to_thread.run_sync(standin.kill)
            async with client.events() as events:
                with pytest.raises(Unavailable):
                    await anext(events)
