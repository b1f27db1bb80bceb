"""What a pair does at its limits: a worker that takes nothing, and a broker that is not listened to for that."""

from __future__ import annotations

import asyncio

import pytest

from renewer.gateway import pressure
from renewer.gateway.pair import Pair
from tests.gateway.fake_relay import FakeLedger, FakeRelay

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class House:
    def __init__(self):
        self.time = 100.0
        self.refusals = []
        self.gone = []

    def now(self):
        return self.time

    def make_relay(self, pair, now):
        self.relay = Noting(pair, None, None, FakeLedger(), now=now, wall=lambda: 0.0)
        return self.relay

    def refused(self, why, detail, peer):
        self.refusals.append(why)

    def upstream_failed(self, detail):
        pass

    def over(self, pair):
        self.gone.append(pair)


class Noting(FakeRelay):
    def from_broker(self, data, now):
        self.note("heard", len(data), now)
        super().from_broker(data, now)

    def advance(self, now):
        self.note("advance", now)


class FakeWire:
    peer = "peer"

    def __init__(self, gone):
        self.buffered = 0
        self.is_paused = False
        self.is_aborted = False
        self._gone = gone

    def send(self, data):
        self.buffered += len(data)

    writer = property(lambda self: self.send)

    def pause(self):
        self.is_paused = True

    def resume(self):
        self.is_paused = False

    def close(self):
        pass

    def abort(self):
        self.is_aborted = True
        self._gone()


@pytest.fixture
def stuck(monkeypatch):
    """A pair whose worker takes nothing, and for which a broker has sent more than may lie here."""
    monkeypatch.setattr(pressure, "HARD_LIMIT", 1000)
    house = House()
    pair = Pair(house)
    worker, broker = FakeWire(pair.worker_gone), FakeWire(pair.broker_gone)
    pair.accept(worker)
    pair.worker_opened(worker)
    pair.broker_opened(broker)
    pair.worker_filled()
    pair.broker_received(b"x" * 1500)
    assert broker.is_paused
    return pair, worker, broker, house


async def test_a_broker_that_is_not_listened_to_is_not_taken_for_silent(stuck) -> None:
    pair, _, _, house = stuck
    house.time = 500.0
    pair.advance(500.0, 20.0)
    assert house.relay.news[-2:] == [("heard", 0, 500.0), ("advance", 500.0)]
    assert not house.refusals


async def test_a_worker_that_asks_on_and_on_and_takes_no_answer_is_cut_off(stuck) -> None:
    pair, worker, _, house = stuck
    for _ in range(5):
        house.relay.to_worker.append(b"y" * 500)
        pair.worker_received(b"ask")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert house.refusals == ["protocol"]
    assert worker.is_aborted
    # Its links are detached, and its leases told of it.
    assert ("stop", "the worker takes none of the answers to what it sends") in house.relay.news


async def test_a_worker_that_is_only_slow_is_waited_for(stuck) -> None:
    pair, worker, broker, house = stuck
    await asyncio.sleep(0)
    assert not worker.is_aborted
    worker.buffered = 0
    pair.worker_drained()
    assert not broker.is_paused
    assert not house.refusals


async def test_a_wire_that_fails_when_all_is_over_does_not_keep_the_leases_from_hearing_of_it(stuck) -> None:
    pair, worker, broker, house = stuck

    def send(data):
        raise RuntimeError("for the test")

    broker.send = send
    house.relay.to_broker.append(b"detach")
    pair.flush_now()
    assert worker.is_aborted
    assert broker.is_aborted
