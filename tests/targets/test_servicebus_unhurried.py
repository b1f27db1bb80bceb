"""Answers to renewals that lie unread for a moment, so that several are read at once; and nothing else that does."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import ByteStream

from renewer.targets.servicebus.connection import REST_S, URGENT_S
from renewer.targets.servicebus.unhurried import UnhurriedStream
from tests.targets.scripted_broker import MemoryStream
from tests.targets.servicebus_rig import begin_renewal, rig, spec
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio

COUNT = 10
GAP_S = 0.002


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual(request.param)


class KernelStream(ByteStream):
    """A pipe in memory that gives out all that has come by then, as a socket does."""

    def __init__(self, stream: MemoryStream) -> None:
        self.reads = 0
        self._stream = stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = await self._stream.receive(max_bytes)
        while True:
            try:
                data += self._stream._receive.receive_nowait()
            except (anyio.WouldBlock, anyio.EndOfStream):
                break
        self.reads += 1
        return data

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def holding(sessions=COUNT):
    """A target with sessions, the broker that says nothing to their renewals, and what the target reads from."""
    made = []

    def over_a_kernel(broker):
        connect = broker.connect

        async def wrapped(options):
            made.append(KernelStream(await connect(options)))
            return UnhurriedStream(made[0])

        broker.connect = wrapped

    async with rig(over_a_kernel) as r:
        for number in range(sessions):
            await r.target.acquire(spec(f"s{number}"), 1)
        # The links for requests are attached with the first of them.
        await r.target.renew(spec("s0"), 1)
        await anyio.sleep(2 * URGENT_S)
        r.broker.on_management = lambda ask: None
        r.broker.asks.clear()
        yield r, made[0]


def ask_all(r, answered):
    for number in range(COUNT):
        assert begin_renewal(r.target, spec(f"s{number}"), 1, answered) is not None


async def answer_all(r):
    """Each by itself, one after the other."""
    for ask in list(r.broker.asks):
        ask.renew()
        await anyio.sleep(GAP_S)


async def test_answers_that_come_one_after_the_other_are_read_together():
    async with holding() as (r, stream):
        answers = []
        ask_all(r, answers.append)
        await r.broker.until(lambda: len(r.broker.asks) == COUNT)
        reads = stream.reads
        await answer_all(r)
        await anyio.sleep(REST_S)
        assert len(answers) == COUNT
        assert all(answer.grant is not None for answer in answers)
        assert stream.reads - reads <= 3


async def test_a_single_answer_and_what_comes_when_none_is_awaited_is_read_when_it_comes():
    async with holding() as (r, _):
        answered_at = []
        begin_renewal(r.target, spec("s0"), 1, lambda _: answered_at.append(r.clock.now()))
        await r.broker.until(lambda: r.broker.asks)
        sent_at = r.clock.now()
        r.broker.asks[0].renew()
        while not answered_at:
            await anyio.lowlevel.checkpoint()
        assert answered_at[0] == sent_at
        r.broker.peer.detach(r.broker.link_of("s1"), "com.microsoft:session-lock-lost")
        lost_from = r.clock.now()
        await r.until_lost()
        assert r.clock.now() == lost_from


async def test_a_loss_among_answers_is_told_after_a_rest_at_the_latest():
    async with holding() as (r, _):
        answers = []
        ask_all(r, answers.append)
        await r.broker.until(lambda: len(r.broker.asks) == COUNT)
        r.broker.asks[0].renew()
        await anyio.sleep(GAP_S)
        assert len(answers) == 1
        r.broker.peer.detach(r.broker.link_of("s9"), "com.microsoft:session-lock-lost")
        lost_from = r.clock.now()
        await r.until_lost()
        assert 0 < r.clock.now() - lost_from <= REST_S


async def test_while_somebody_waits_for_something_else_everything_is_read_when_it_comes():
    async with holding() as (r, stream):
        answers = []
        ask_all(r, answers.append)
        await r.broker.until(lambda: len(r.broker.asks) == COUNT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(r.target.get_state, spec("s0"), 1)
            await r.broker.until(lambda: len(r.broker.asks) == COUNT + 1)
            state = r.broker.asks.pop()
            reads = stream.reads
            await answer_all(r)
            assert stream.reads - reads >= COUNT
            state.answer(body={"session-state": None})


async def test_the_rest_ends_with_the_connection():
    async with holding() as (r, _):
        answers = []
        ask_all(r, answers.append)
        await r.broker.until(lambda: len(r.broker.asks) == COUNT)
        for ask in r.broker.asks:
            ask.renew()
        await anyio.sleep(GAP_S)
        stopped_at = r.clock.now()
        r.stop.cancel()
        await r.broker.until(lambda: not r.broker.held)
        assert r.clock.now() - stopped_at < 1
