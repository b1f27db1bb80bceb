"""The event stream: order, replay, gaps, and what it costs when nobody listens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from renewer.api.control import EventDocument
from renewer.core.effects import LeaseNews, OperationNews, TellLease, TellOperation
from renewer.core.model import LeaseId, LeaseSpec, OperationId, OperationSpec
from renewer.core.states import OperationState
from renewer.daemon import eventstream
from renewer.daemon.eventstream import EventStream

pytestmark = pytest.mark.anyio


def told(news: LeaseNews, name: str = "a", at: float = 0.0) -> TellLease:
    return TellLease(news, LeaseSpec(LeaseId(name), "servicebus.main", "orders"), 1, at)


def acquired(stream: EventStream, *names: str) -> None:
    for name in names:
        stream.lease(told(LeaseNews.ACQUIRED, name))


async def read(reader, count: int) -> list[EventDocument]:
    with anyio.fail_after(5):
        return [await anext(reader) for _ in range(count)]


async def read_all(stream: EventStream, *args, **options) -> list[EventDocument]:
    """What a reader has to read at once."""
    async with stream.subscribe(*args, **options) as reader:
        return await waiting_for(reader)


async def waiting_for(reader) -> list[EventDocument]:
    events = []
    with anyio.move_on_after(0.01):
        while True:
            events.append(await anext(reader))
    return events


def ids(events: list[EventDocument]) -> list[str]:
    return [event.id for event in events]


@asynccontextmanager
async def two(stream: EventStream, *args):
    async with stream.subscribe(*args) as one, stream.subscribe(*args) as other:
        yield one, other


async def test_every_reader_is_told_in_order(clock) -> None:
    stream = EventStream(3, clock)
    async with two(stream) as readers:
        acquired(stream, "a", "b")
        for reader in readers:
            events = await read(reader, 2)
            assert [(event.id, event.type, event.subject) for event in events] == [
                ("3-1", "lease.acquired", "a"),
                ("3-2", "lease.acquired", "b"),
            ]


async def test_a_reader_that_waits_is_woken(clock) -> None:
    stream = EventStream(1, clock)
    seen: list[str] = []

    async def reading(*, task_status) -> None:
        async with stream.subscribe() as reader:
            task_status.started()
            seen.extend(ids(await read(reader, 2)))

    async with anyio.create_task_group() as tasks:
        await tasks.start(reading)
        await anyio.wait_all_tasks_blocked()
        acquired(stream, "a")
        await anyio.wait_all_tasks_blocked()
        acquired(stream, "b")
    assert seen == ["1-1", "1-2"]


async def test_the_time_is_when_it_happened_and_not_when_it_is_told(clock) -> None:
    stream = EventStream(1, clock)
    async with stream.subscribe() as reader:
        happened_at, moment = clock.now(), clock.utc_now()
        await anyio.sleep(5)
        stream.lease(told(LeaseNews.LOST, at=happened_at))
        [event] = await read(reader, 1)
    assert abs((event.time - moment).total_seconds()) < 0.001


async def test_a_reader_goes_on_after_the_event_that_it_names(clock) -> None:
    stream = EventStream(1, clock)
    acquired(stream, "a", "b", "c")
    async with stream.subscribe("1-1") as reader:
        acquired(stream, "d")
        assert ids(await read(reader, 3)) == ["1-2", "1-3", "1-4"]
    assert await read_all(stream, "1-4") == []


@pytest.mark.parametrize("after", ["1-2", "3-1", "2-9", "nonsense", "", "2-x", "2--1", "2-1\n", "٢-1", "9" * 40 + "-1"])
async def test_an_id_that_is_not_known_begins_with_a_gap_and_all_that_is_kept(clock, after: str) -> None:
    stream = EventStream(2, clock)
    acquired(stream, "a", "b")
    gap, *rest = await read_all(stream, after)
    assert (gap.type, gap.id, gap.subject, gap.data) == ("stream.gap", "2-0", "", {"reason": "unknown"})
    assert ids(rest) == ["2-1", "2-2"]
    assert ids(await read_all(stream, gap.id)) == ["2-1", "2-2"]


async def test_an_event_that_is_no_longer_kept_begins_with_a_gap(clock) -> None:
    stream = EventStream(1, clock, size=3)
    acquired(stream, "a", "b", "c", "d", "e")
    assert ids(await read_all(stream, "1-2")) == ["1-3", "1-4", "1-5"]
    gap, *rest = await read_all(stream, "1-1")
    assert (gap.type, gap.id, gap.data["reason"]) == ("stream.gap", "1-2", "too_old")
    assert ids(rest) == ["1-3", "1-4", "1-5"]


async def test_what_is_kept_is_bounded_in_bytes(clock) -> None:
    stream = EventStream(1, clock, max_bytes=50_000)
    for _ in range(100):
        stream.lease(replace(told(LeaseNews.AT_RISK), detail="x" * 1_000))
    gap, *rest = await read_all(stream, "1-0")
    assert gap.type == "stream.gap"
    assert 10 < len(rest) < 50


async def test_a_reader_that_falls_behind_is_told_of_a_gap_and_goes_on(clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventstream, "READER_EVENTS", 3)
    stream = EventStream(1, clock)
    async with stream.subscribe() as reader:
        acquired(stream, "a", "b", "c", "d", "e")
        gap, *rest = await read(reader, 4)
        assert (gap.type, gap.id, gap.data["reason"]) == ("stream.gap", "1-2", "too_slow")
        assert ids(rest) == ["1-3", "1-4", "1-5"]
        acquired(stream, "f")
        assert ids(await read(reader, 1)) == ["1-6"]


async def test_one_slow_reader_costs_the_others_nothing(clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventstream, "READER_EVENTS", 2)
    stream = EventStream(1, clock)
    async with two(stream) as (slow, quick):
        for number in range(1, 6):
            acquired(stream, "a")
            assert ids(await read(quick, 1)) == [f"1-{number}"]
        assert (await read(slow, 1))[0].type == "stream.gap"


async def test_renewals_are_told_to_those_who_ask_for_them_and_not_kept(clock) -> None:
    stream = EventStream(1, clock)
    async with stream.subscribe() as plain, stream.subscribe(None, lambda kind, _: kind == "lease.renewed") as asking:
        stream.lease(replace(told(LeaseNews.RENEWED), margin_s=5.0))
        acquired(stream, "b")
        [event] = await waiting_for(asking)
        assert (event.id, event.type, event.data["margin_s"]) == ("", "lease.renewed", 5.0)
        assert ids(await waiting_for(plain)) == ["1-1"]
    assert ids(await read_all(stream, "1-0", lambda *_: True)) == ["1-1"]


async def test_polls_are_told_to_those_who_ask_for_them(clock) -> None:
    stream = EventStream(1, clock)
    news = TellOperation(
        OperationNews.POLLED, OperationSpec(OperationId("o"), "fabric.main", None), OperationState.RUNNING, 0.0
    )
    async with stream.subscribe() as plain, stream.subscribe(subjects=["o"], wanted=lambda *_: True) as asking:
        stream.operation(news)
        assert [event.type for event in await waiting_for(asking)] == ["operation.polled"]
        assert await waiting_for(plain) == []


async def test_nothing_is_built_for_renewals_that_nobody_asks_for(clock, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    build = eventstream.lease_data

    def counting(*args):
        built.append(args)
        return build(*args)

    monkeypatch.setattr(eventstream, "lease_data", counting)
    stream = EventStream(1, clock)
    renewed = told(LeaseNews.RENEWED, "a")
    stream.lease(renewed)
    async with (
        stream.subscribe(),
        stream.subscribe(None, lambda kind, _: kind == "lease.lost"),
        stream.subscribe(None, lambda *_: True, subjects=["b"]),
    ):
        stream.lease(renewed)
        assert built == []
        stream.lease(told(LeaseNews.RENEWED, "b"))
        assert len(built) == 1


async def test_a_reader_of_subjects_is_not_asked_about_others(clock) -> None:
    stream = EventStream(1, clock)
    asked: list[str] = []

    def wanted(kind: str, subject: str) -> bool:
        asked.append(subject)
        return kind != "lease.released"

    acquired(stream, "a", "b")
    async with stream.subscribe("1-0", wanted, subjects=["b", "c"]) as reader:
        acquired(stream, "a", "c", "a")
        stream.lease(told(LeaseNews.RELEASED, "c"))
        events = await waiting_for(reader)
    assert [event.subject for event in events] == ["b", "c"]
    assert "a" not in asked
    assert stream.readers == 0


async def test_a_reader_that_is_cancelled_while_it_waits_loses_nothing(clock) -> None:
    stream = EventStream(1, clock)
    async with stream.subscribe() as reader:
        for number in range(1, 4):
            with anyio.move_on_after(1):
                await anext(reader)
            acquired(stream, "a")
            assert ids(await read(reader, 1)) == [f"1-{number}"]


async def test_the_generation_can_be_set_before_the_first_event(clock) -> None:
    stream = EventStream(0, clock)
    stream.begin(7)
    async with stream.subscribe() as reader:
        acquired(stream, "a")
        assert ids(await read(reader, 1)) == ["7-1"]
    assert (await read_all(stream, "0-1"))[0].type == "stream.gap"


async def test_readers_that_leave_are_forgotten(clock) -> None:
    stream = EventStream(1, clock)
    wanted: Callable[[str, str], bool] = lambda *_: True  # noqa: E731
    async with stream.subscribe(), stream.subscribe(None, wanted), stream.subscribe(subjects=["a", "b"]):
        assert stream.readers == 3
    assert stream.readers == 0
    with pytest.raises(RuntimeError):
        async with stream.subscribe(None, wanted):
            raise RuntimeError
    assert stream.readers == 0
    stream.lease(told(LeaseNews.RENEWED))
    acquired(stream, "a")


async def test_a_closed_stream_lets_readers_finish_what_was_told(clock) -> None:
    stream = EventStream(1, clock)
    seen: list[str] = []

    async def reading(*, task_status) -> None:
        async with stream.subscribe() as reader:
            task_status.started()
            seen.extend([event.id async for event in reader])

    async with anyio.create_task_group() as tasks:
        await tasks.start(reading)
        acquired(stream, "a", "b")
        stream.close()
        with anyio.fail_after(5):
            await anyio.wait_all_tasks_blocked()
    assert seen == ["1-1", "1-2"]


async def test_a_stream_that_closes_wakes_readers_that_wait(clock) -> None:
    stream = EventStream(1, clock)
    ended = anyio.Event()

    async def reading(*, task_status) -> None:
        async with stream.subscribe(subjects=["a"]) as reader:
            task_status.started()
            async for _ in reader:
                pass
        ended.set()

    async with anyio.create_task_group() as tasks:
        await tasks.start(reading)
        await anyio.wait_all_tasks_blocked()
        stream.close()
        with anyio.fail_after(5):
            await ended.wait()
