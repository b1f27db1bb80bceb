"""Streams of events, called directly and in virtual time, and over a real socket."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import anyio
import pytest

from renewer.api.server import build_api
from renewer.core.model import Owner
from renewer.core.states import LeaseState, OwnerKind
from tests.api.scripted_control import ScriptedControl

pytestmark = pytest.mark.anyio


@pytest.fixture
def control():
    return ScriptedControl()


class Stream:
    """What came of a request so far, and the reader's end of its connection."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = ""
        self.ended = False
        self.gone = anyio.Event()
        self.takes: anyio.Event | None = None
        self._news = anyio.Event()

    async def send(self, message) -> None:
        if self.takes is not None:
            await self.takes.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.text += message["body"].decode()
            self.ended = not message.get("more_body", False)
        news, self._news = self._news, anyio.Event()
        news.set()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def until(self, condition) -> None:
        with anyio.fail_after(1000):
            while not condition(self):
                await self._news.wait()

    def events(self) -> list[dict[str, str]]:
        """The events so far, each as its fields, comments and instructions left out."""
        blocks = [block.split("\n") for block in self.text.split("\n\n")[:-1]]
        found = [dict(line.split(": ", 1) for line in block if not line.startswith(":")) for block in blocks]
        return [fields for fields in found if "event" in fields]

    def types(self) -> list[str]:
        return [event["event"] for event in self.events()]


@asynccontextmanager
async def streaming(control, path, headers=()):
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "http_version": "1.1",
        "scheme": "http",
        "server": None,
        "client": None,
    }
    stream = Stream()
    app = build_api(control, over_tcp=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, scope, stream.receive, stream.send)
        await stream.until(lambda stream: stream.status != 0)
        yield stream
        stream.gone.set()


async def test_events_are_told_as_they_happen(control):
    async with streaming(control, "/v1/events") as stream:
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.headers["cache-control"] == "no-store"
        lease = control.add_lease(labels={"text": "two\nlines"})
        control.tell("lease.at_risk", lease.spec.id, detail="two\nlines")
        await stream.until(lambda stream: "at_risk" in stream.text)
        *_, last = stream.events()
    document = json.loads(last["data"])
    assert (last["event"], last["id"]) == ("lease.at_risk", document["id"])
    assert (document["type"], document["subject"]) == ("lease.at_risk", lease.spec.id)
    assert document["data"] == {"detail": "two\nlines"}
    assert control.readers == []


@pytest.mark.parametrize(
    ("query", "types"),
    [
        ("type=lease", ["lease.lost"]),
        ("type=lease.lost", ["lease.lost"]),
        ("type=lease.renewed", ["lease.renewed"]),
        ("type=lease&type=lease.renewed", ["lease.lost", "lease.renewed"]),
        ("type=operation", ["operation.failed"]),
        ("subject=op-9", ["operation.failed"]),
        ("subject=lease-9&type=lease.lost&type=operation", ["lease.lost"]),
    ],
)
async def test_who_names_events_hears_those_alone_and_of_gaps(control, query, types):
    async with streaming(control, f"/v1/events?{query}") as stream:
        for name, subject in (
            ("lease.lost", "lease-9"),
            ("lease.renewed", "lease-9"),
            ("operation.polled", "op-9"),
            ("operation.failed", "op-9"),
            ("stream.gap", ""),
        ):
            control.tell(name, subject)
        await stream.until(lambda stream: "stream.gap" in stream.text)
        assert stream.types() == [*types, "stream.gap"]


@pytest.mark.parametrize(
    ("path", "headers", "after"),
    [
        ("/v1/events", (), None),
        ("/v1/events?after=3-17", (), "3-17"),
        ("/v1/events", [("last-event-id", "3-18")], "3-18"),
        ("/v1/events?after=3-17", [("last-event-id", "3-18")], "3-18"),
    ],
)
async def test_a_reader_that_comes_back_says_how_far_it_has_come(control, path, headers, after):
    async with streaming(control, path, headers):
        assert control.afters == [after]


async def test_a_silent_stream_says_every_ten_seconds_that_it_lives(control):
    async with streaming(control, "/v1/events?type=lease") as stream:
        began_at = anyio.current_time()
        for seconds in (10, 20, 30):
            await stream.until(lambda stream, seconds=seconds: stream.text.count(": keep-alive") == seconds // 10)
            assert anyio.current_time() - began_at == pytest.approx(seconds)
        await anyio.sleep(5)
        control.tell("lease.lost", "lease-9")
        await stream.until(lambda stream: stream.text.count(": keep-alive") == 4)
        assert anyio.current_time() - began_at == pytest.approx(45)


async def test_a_reader_that_takes_nothing_holds_up_nobody_else(control):
    async with streaming(control, "/v1/events") as stuck, streaming(control, "/v1/events") as other:
        stuck.takes = anyio.Event()
        for _ in range(2):
            control.tell("lease.lost", "lease-9")
        await other.until(lambda stream: stream.types()[-2:] == ["lease.lost", "lease.lost"])
        assert stuck.types() == []
        stuck.takes.set()


async def test_the_stream_of_a_lease_begins_with_the_lease_and_ends_with_it(control):
    lease = control.add_lease("s")
    async with streaming(control, f"/v1/leases/{lease.spec.id}/events") as stream:
        await stream.until(lambda stream: stream.types() == ["snapshot"])
        control.tell("lease.renewed", lease.spec.id, margin_s=4.5)
        control.tell("lease.renewed", "lease-other")
        control.tell("lease.lost", lease.spec.id, final=False)
        control.grant(lease)
        control.lose(lease)
        await stream.until(lambda stream: stream.ended)
    assert stream.types() == ["snapshot", "lease.renewed", "lease.lost", "lease.acquired", "lease.lost"]
    snapshot = stream.events()[0]
    assert "id" not in snapshot
    assert json.loads(snapshot["data"])["session_id"] == "s"
    assert control.settled_keys == [lease.spec.id]


@pytest.mark.parametrize("how", ["release", "forget_lease"])
async def test_the_stream_of_a_lease_ends_when_it_is_let_go(control, how):
    lease = control.add_lease("s")
    async with streaming(control, f"/v1/leases/{lease.spec.id}/events") as stream:
        await stream.until(lambda stream: stream.types() == ["snapshot"])
        await getattr(control, how)(lease.spec.id)
        await stream.until(lambda stream: stream.ended)
    assert control.readers == []


async def test_the_stream_of_a_lease_that_is_over_is_short(control):
    lease = control.add_lease("s", state=LeaseState.RELEASED)
    async with streaming(control, f"/v1/leases/{lease.spec.id}/events") as stream:
        await stream.until(lambda stream: stream.ended)
    assert stream.types() == ["snapshot"]


async def test_after_a_gap_the_lease_is_shown_as_it_is(control):
    lease = control.add_lease("s")
    async with streaming(control, f"/v1/leases/{lease.spec.id}/events") as stream:
        await stream.until(lambda stream: stream.types() == ["snapshot"])
        lease.state = LeaseState.LOST
        control.tell("stream.gap", "")
        await stream.until(lambda stream: stream.ended)
    assert stream.types() == ["snapshot", "stream.gap", "snapshot"]
    assert json.loads(stream.events()[-1]["data"])["state"] == "lost"


async def test_an_owner_is_there_while_its_stream_stands(control):
    lease = control.add_lease("s", owner=Owner(OwnerKind.CONNECTION, 5))
    async with streaming(control, f"/v1/leases/{lease.spec.id}/events?owner=true") as stream:
        await stream.until(lambda stream: stream.types() == ["snapshot"])
        assert control.owners_there == {lease.spec.id: 1}
        stream.gone.set()
        await control.until(lambda: control.owners_there == {lease.spec.id: 0})
    assert control.readers == []


async def test_a_reader_that_is_not_the_owner_counts_for_nothing(control):
    lease = control.add_lease("s", owner=Owner(OwnerKind.CONNECTION, 5))
    async with streaming(control, f"/v1/leases/{lease.spec.id}/events") as stream:
        await stream.until(lambda stream: stream.types() == ["snapshot"])
        assert control.owners_there == {}


async def test_a_lease_that_is_kept_otherwise_has_no_owner_to_connect(control):
    lease = control.add_lease("s")
    async with streaming(control, f"/v1/leases/{lease.spec.id}/events?owner=true") as stream:
        await stream.until(lambda stream: stream.ended)
    assert (stream.status, stream.headers["content-type"]) == (409, "application/problem+json")
    assert control.readers == []
