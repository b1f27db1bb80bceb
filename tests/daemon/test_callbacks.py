"""Deliveries in virtual time: until acknowledged, in order for each subject, with growing pauses."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import anyio
import httpx
import pytest
import structlog

from renewer.core.effects import LeaseNews, OperationNews, TellLease, TellOperation
from renewer.core.model import LeaseId, LeaseSpec, OperationId, OperationSpec, Result
from renewer.core.operations import Operation
from renewer.core.states import LossReason, OperationState
from renewer.daemon import deliveries
from renewer.daemon.callbacks import MAX_UNDER_WAY, CallbackOptions, Callbacks
from renewer.ports import Entry, EntryKind

pytestmark = pytest.mark.anyio

URL = "http://127.0.0.1:8080/hooks/secret-path?sig=secret-query"
Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


@dataclass
class Receiver:
    """Answers as scripted, then 204; remembers what came and when."""

    script: list[Answer] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)
    latency_s: float = 0.0
    under_way: int = 0
    most_under_way: int = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.asked_at.append(anyio.current_time())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await anyio.sleep(self.latency_s)
        finally:
            self.under_way -= 1
        answer = self.script.pop(0) if self.script else httpx.Response(204)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer(request)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.requests]

    @property
    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.asked_at, self.asked_at[1:], strict=False)]


class Rig:
    """Callbacks over a scripted receiver, and a registry that is a dict."""

    def __init__(self, clock, *script: Answer, options: CallbackOptions | None = None, **rest) -> None:
        self.clock = clock
        self.receiver = Receiver(list(script))
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.receiver.answer))
        self.callbacks = Callbacks(
            options or CallbackOptions(), clock, client=self.client, draw=rest.pop("draw", lambda: 1.0), **rest
        )
        self.kept: dict[str, Entry] = {}
        self.emptied = anyio.Event()
        self.callbacks.on_done = self._done

    def tell(self, *news: TellLease | TellOperation) -> list[Entry]:
        entries = [entry for one in news if (entry := self.callbacks.entry_for(one)) is not None]
        for entry in entries:
            self.kept[entry.id] = entry
            self.callbacks.send(entry)
        return entries

    def _done(self, callback_id: str) -> None:
        del self.kept[callback_id]
        if not self.kept:
            self.emptied.set()

    @asynccontextmanager
    async def running(self):
        async with self.client, anyio.create_task_group() as tasks:
            await tasks.start(self.callbacks.run)
            yield
            tasks.cancel_scope.cancel()

    async def deliver(self) -> None:
        """Run until nothing is kept any more."""
        async with self.running():
            await self.emptied.wait()


def lease_news(what: LeaseNews, name: str = "lease-1", url: object = URL, at: float = 0.0, **fields) -> TellLease:
    context: Mapping[str, Any] = {} if url is None else {"callback": url}
    return TellLease(what, LeaseSpec(LeaseId(name), "servicebus.main", "orders", context=context), 2, at, **fields)


def operation_news(state: OperationState, what: OperationNews = OperationNews.STATE_CHANGED) -> TellOperation:
    spec = OperationSpec(OperationId("op-1"), "fabric.main", None, context={"callback": URL})
    return TellOperation(what, spec, state, 0.0)


LOST = lease_news(LeaseNews.LOST, reason=LossReason.DETACHED, final=True)


async def test_a_loss_is_delivered_as_a_cloud_event(clock) -> None:
    rig = Rig(clock)
    happened_at, moment = clock.now(), clock.utc_now()
    await anyio.sleep(3)
    [entry] = rig.tell(replace(LOST, at=happened_at))
    await rig.deliver()
    [request] = rig.receiver.requests
    assert (request.method, str(request.url)) == ("POST", URL)
    assert request.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert "renewer-signature" not in request.headers
    [event] = rig.receiver.events
    assert abs(datetime.fromisoformat(event.pop("time")) - moment) < timedelta(milliseconds=2)
    assert event == {
        "specversion": "1.0",
        "id": entry.id,
        "source": "renewer",
        "type": "renewer.lease.lost",
        "subject": "lease-1",
        "datacontenttype": "application/json",
        "data": {
            "kind": "session",
            "servicebus": "main",
            "entity": "orders",
            "session_id": None,
            "epoch": 2,
            "state": "lost",
            "reason": "detached",
            "final": True,
            "labels": {},
        },
    }
    assert rig.callbacks.outcomes == {"delivered": 1, "failed": 0, "given_up": 0}
    assert rig.callbacks.pending == 0


async def test_the_end_of_an_operation_tells_status_and_result(clock) -> None:
    def look_up(operation_id: OperationId) -> Operation:
        spec = OperationSpec(operation_id, "fabric.main", None)
        return Operation(spec, 0.0, status="Succeeded", result=Result("json", None, b"[]"))

    rig = Rig(clock, operation=look_up)
    rig.tell(operation_news(OperationState.SUCCEEDED))
    await rig.deliver()
    [event] = rig.receiver.events
    assert (event["type"], event["subject"]) == ("renewer.operation.succeeded", "op-1")
    assert event["data"]["result"] == {"kind": "json", "size": 2, "href": "/v1/operations/op-1/result"}


async def test_only_what_an_owner_must_act_on_is_called_back(clock) -> None:
    callbacks = Rig(clock).callbacks
    told = {what.value for what in LeaseNews if callbacks.entry_for(lease_news(what)) is not None}
    assert told == {"acquired", "reacquired", "at_risk", "recovered", "lost", "released"}
    ends = {state.value for state in OperationState if callbacks.entry_for(operation_news(state)) is not None}
    assert ends == {"succeeded", "failed", "canceled", "expired", "timed_out", "unpollable", "rejected"}
    assert callbacks.entry_for(operation_news(OperationState.SUCCEEDED, OperationNews.FORGOTTEN)) is None


@pytest.mark.parametrize("url", [None, 7, ["x"]])
async def test_nobody_is_called_who_did_not_ask(clock, url: object) -> None:
    assert Rig(clock).callbacks.entry_for(lease_news(LeaseNews.LOST, url=url)) is None


async def test_entries_are_numbered_in_order_and_hide_the_url(clock) -> None:
    entries = Rig(clock).tell(LOST, LOST)
    assert [(entry.kind, entry.number) for entry in entries] == [(EntryKind.CALLBACK, 1), (EntryKind.CALLBACK, 2)]
    assert len({entry.id for entry in entries}) == 2
    assert "secret" not in repr(entries)
    assert "secret" not in repr(deliveries.read_entry(entries[0]))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(404),
        httpx.Response(302, headers={"Location": "http://127.0.0.1:9999/elsewhere"}),
        httpx.ConnectError("refused at http://127.0.0.1:8080/hooks/secret-path"),
        httpx.ReadTimeout("late"),
        ValueError("a bug that shows secret-path"),
    ],
    ids=lambda answer: str(getattr(answer, "status_code", type(answer).__name__)),
)
async def test_what_is_not_acknowledged_is_sent_again_unchanged(clock, answer: Answer) -> None:
    rig = Rig(clock, answer, answer)
    with structlog.testing.capture_logs() as lines:
        rig.tell(LOST)
        await rig.deliver()
    assert len(rig.receiver.requests) == 3
    assert len({request.content for request in rig.receiver.requests}) == 1
    assert {str(request.url) for request in rig.receiver.requests} == {URL}
    assert rig.callbacks.outcomes == {"delivered": 1, "failed": 2, "given_up": 0}
    assert [line["event"] for line in lines].count("callback not delivered") == 2
    assert "secret" not in str(lines)


async def test_pauses_grow_to_five_minutes(clock) -> None:
    rig = Rig(clock, *[httpx.Response(503)] * 12)
    rig.tell(LOST)
    await rig.deliver()
    assert rig.receiver.pauses == pytest.approx([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300])


async def test_pauses_are_drawn_by_chance(clock) -> None:
    fractions = iter([0.5, 0.25, 0.0])
    rig = Rig(clock, *[httpx.Response(503)] * 3, draw=lambda: next(fractions))
    rig.tell(LOST)
    await rig.deliver()
    assert rig.receiver.pauses == pytest.approx([0.5, 0.5, 0.0])


async def test_a_receiver_can_ask_for_a_longer_pause(clock) -> None:
    asked = [httpx.Response(429, headers={"Retry-After": span}) for span in ("30", "999999", "soon")]
    rig = Rig(clock, *asked)
    rig.tell(LOST)
    await rig.deliver()
    assert rig.receiver.pauses == pytest.approx([30, 3600, 4])


async def test_a_receiver_that_does_not_answer_costs_ten_seconds(clock) -> None:
    rig = Rig(clock)
    rig.receiver.latency_s = 60.0
    rig.tell(LOST)
    async with rig.running():
        await anyio.sleep(15)
        rig.receiver.latency_s = 0.0
        await rig.emptied.wait()
    assert rig.receiver.pauses == pytest.approx([11, 12])
    assert rig.callbacks.outcomes["failed"] == 2


async def test_gone_is_not_asked_again(clock) -> None:
    rig = Rig(clock, httpx.Response(410))
    with structlog.testing.capture_logs() as lines:
        rig.tell(LOST)
        await rig.deliver()
    assert len(rig.receiver.requests) == 1
    assert rig.callbacks.outcomes == {"delivered": 0, "failed": 1, "given_up": 1}
    [line] = lines
    assert (line["event"], line["log_level"], line["subject"]) == ("callback given up", "warning", "lease-1")
    assert "secret" not in str(line)


async def test_a_delivery_is_given_up_after_its_time(clock) -> None:
    rig = Rig(clock, *[httpx.Response(500)] * 100, options=CallbackOptions(give_up_s=100.0))
    rig.tell(LOST)
    await rig.deliver()
    assert rig.receiver.asked_at[-1] - rig.receiver.asked_at[0] == pytest.approx(127)
    assert rig.callbacks.outcomes["given_up"] == 1
    assert rig.callbacks.pending == 0


async def test_the_events_of_a_subject_stay_in_order(clock) -> None:
    rig = Rig(clock, httpx.Response(500), httpx.Response(500))
    rig.tell(*(lease_news(what) for what in (LeaseNews.ACQUIRED, LeaseNews.AT_RISK, LeaseNews.LOST)))
    await rig.deliver()
    types = [event["type"].rpartition(".")[2] for event in rig.receiver.events]
    assert types == ["acquired", "acquired", "acquired", "at_risk", "lost"]


async def test_one_subject_does_not_hold_up_another(clock) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500 if json.loads(request.content)["subject"] == "stuck" else 204)

    rig = Rig(clock, *[answer] * 100)
    rig.tell(lease_news(LeaseNews.LOST, "stuck"), *(lease_news(LeaseNews.LOST, f"lease-{n}") for n in range(10)))
    async with rig.running():
        await rig.callbacks.caught_up()
        assert rig.callbacks.pending == 1
        assert rig.callbacks.outcomes["delivered"] == 10


async def test_at_most_sixteen_are_under_way(clock) -> None:
    rig = Rig(clock)
    rig.receiver.latency_s = 1.0
    rig.tell(*(lease_news(LeaseNews.LOST, f"lease-{n}") for n in range(40)))
    await rig.deliver()
    assert rig.receiver.most_under_way == MAX_UNDER_WAY
    assert len(rig.receiver.requests) == 40


async def test_what_is_told_while_it_runs_is_delivered_at_once(clock) -> None:
    rig = Rig(clock)
    async with rig.running():
        await anyio.sleep(100)
        rig.tell(LOST)
        await rig.callbacks.caught_up()
    assert rig.kept == {}
    assert len(rig.receiver.asked_at) == 1


async def test_a_delivery_that_was_cut_off_is_made_again_by_the_next_run(clock) -> None:
    first = Rig(clock)
    first.receiver.latency_s = 5.0
    [entry, later] = first.tell(LOST, LOST)
    async with first.running():
        await anyio.sleep(1)
    assert list(first.kept) == [entry.id, later.id]
    second = Rig(clock)
    second.kept = {
        key: replace(kept, document=json.loads(json.dumps(kept.document))) for key, kept in first.kept.items()
    }
    second.callbacks.restore(reversed(list(second.kept.values())))
    [third] = second.tell(LOST)
    assert third.number == 3
    await second.deliver()
    assert [event["id"] for event in second.receiver.events] == [entry.id, later.id, third.id]
    assert second.receiver.requests[0].content == first.receiver.requests[0].content


async def test_what_is_too_old_is_tried_once_more_after_a_restart(clock) -> None:
    entries = Rig(clock).tell(LOST, lease_news(LeaseNews.LOST, "other"))
    clock.offset = timedelta(days=3)
    rig = Rig(clock, httpx.Response(500))
    rig.kept = {entry.id: entry for entry in entries}
    rig.callbacks.restore(entries)
    await rig.deliver()
    assert rig.callbacks.outcomes == {"delivered": 1, "failed": 1, "given_up": 1}


async def test_a_wall_clock_that_jumps_gives_nothing_up(clock) -> None:
    rig = Rig(clock, *[httpx.Response(500)] * 3)
    rig.tell(LOST)
    clock.offset = timedelta(days=30)
    await rig.deliver()
    assert rig.callbacks.outcomes["delivered"] == 1


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"v": 2, "url": URL, "event": {}},
        {"v": 1, "event": {}},
        {"v": 1, "url": URL, "event": []},
        {"v": 1, "url": URL, "event": {"subject": "a", "type": "b", "time": "then"}},
        {"v": 1, "url": URL, "event": {"subject": "a", "type": "b", "time": "2026-01-01T00:00:00"}},
        {"v": 1, "url": URL, "event": {"type": "b", "time": "2026-01-01T00:00:00Z"}},
    ],
)
async def test_an_entry_that_cannot_be_read_is_left_as_it_is(clock, document: dict[str, Any]) -> None:
    rig = Rig(clock)
    with structlog.testing.capture_logs() as lines:
        rig.callbacks.restore([Entry(EntryKind.CALLBACK, "event-1", 7, document)])
    assert [line["event"] for line in lines] == ["callback unreadable"]
    assert "secret" not in str(lines)
    assert rig.callbacks.pending == 0
    [entry] = rig.tell(LOST)
    assert entry.number == 8


async def test_a_host_that_is_no_longer_allowed_is_not_called(clock) -> None:
    options = CallbackOptions(allow_hosts=("hooks.example.com",))
    rig = Rig(clock, options=options)
    rig.tell(lease_news(LeaseNews.LOST, url="https://hooks.example.com/x"))
    rig.callbacks.use(CallbackOptions())
    async with rig.running():
        await anyio.sleep(3)
        assert rig.receiver.requests == []
        rig.callbacks.use(options)
        await rig.emptied.wait()
    assert len(rig.receiver.requests) == 1


async def test_a_key_signs_time_and_body(clock) -> None:
    rig = Rig(clock, options=CallbackOptions(key="top secret"))
    rig.tell(LOST)
    await rig.deliver()
    [request] = rig.receiver.requests
    moment, signed = (part.partition("=")[2] for part in request.headers["renewer-signature"].split(","))
    assert abs(int(moment) - clock.utc_now().timestamp()) < 10
    expected = hmac.new(b"top secret", moment.encode() + b"." + request.content, hashlib.sha256).hexdigest()
    assert signed == expected
    assert "top secret" not in repr(CallbackOptions(key="top secret"))


async def test_of_too_many_the_oldest_that_wait_are_given_up(clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MAX_PENDING_PER_SUBJECT", 3)
    rig = Rig(clock)
    entries = rig.tell(*[LOST] * 5)
    assert list(rig.kept) == [entries[0].id, entries[3].id, entries[4].id]
    await rig.deliver()
    assert [event["id"] for event in rig.receiver.events] == [entries[0].id, entries[3].id, entries[4].id]
    assert rig.callbacks.outcomes == {"delivered": 3, "failed": 0, "given_up": 2}


async def test_when_no_more_can_wait_at_all_the_newest_is_given_up(clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MAX_PENDING", 2)
    rig = Rig(clock)
    entries = rig.tell(*(lease_news(LeaseNews.LOST, f"lease-{n}") for n in range(3)))
    assert list(rig.kept) == [entries[0].id, entries[1].id]
    assert rig.callbacks.pending == 2
    await rig.deliver()
    assert rig.callbacks.pending == 0


async def test_nothing_to_do_is_caught_up(clock) -> None:
    with anyio.fail_after(1):
        await Rig(clock).callbacks.caught_up()
