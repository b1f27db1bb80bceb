"""Renewals of sessions that no task waits for, and how their replies are settled."""

from types import SimpleNamespace

import anyio
import pytest
import structlog

from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, TransientError
from renewer.targets.servicebus import requests
from renewer.targets.servicebus.connection import TICK_S
from renewer.targets.servicebus.management import Management
from tests.targets.servicebus_rig import begin_renewal, failing, rig, spec
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual(request.param)


class Answer:
    """Asks for a renewal, and remembers what came."""

    def __init__(self, r, session_id="s1"):
        self.all = []
        self._is_there = anyio.Event()
        self.renewal = begin_renewal(r.target, spec(session_id), 1, self._take_in)

    def _take_in(self, renewal):
        self.all.append(renewal)
        self._is_there.set()

    async def wait(self):
        await self._is_there.wait()
        assert self.all == [self.renewal]
        return self.renewal


async def test_a_lock_is_renewed_and_counts_from_when_that_was_asked_for():
    async with rig() as r:
        granted = await r.target.acquire(spec(), 1)
        before = r.clock.now()
        grant = (await Answer(r).wait()).grant
        assert before <= grant.anchored_at <= r.clock.now()
        assert 29 < grant.duration_s <= granted.duration_s
        assert grant.locked_until == pytest.approx(r.broker.wall() + 30, abs=1)
        assert grant.session_id == "s1"
        assert [ask.session_id for ask in r.broker.asks] == ["s1"]


async def test_nothing_is_asked_for_what_is_not_held_so():
    async with rig() as r:
        assert begin_renewal(r.target, spec(), 1, pytest.fail) is None
        await r.target.acquire(spec(), 1)
        assert begin_renewal(r.target, spec(), 2, pytest.fail) is None
        assert r.broker.asks == []


async def test_what_a_bug_kept_from_being_asked_does_not_count_as_begun(monkeypatch):
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        wanted = SimpleNamespace(spec=spec(), epoch=1, renewal=None)

        def bug(*_, **__):
            raise ValueError

        monkeypatch.setattr(Management, "ask", bug)
        with pytest.raises(ValueError):
            r.target.begin_renewals([wanted], pytest.fail)
        assert wanted.renewal is None


async def test_what_cannot_be_asked_now_does_not_count_as_begun(monkeypatch):
    async with rig() as r:
        await r.target.acquire(spec(), 1)

        def closed(*_, **__):
            raise TransientError("closed", kind="network")

        with monkeypatch.context() as patched:
            patched.setattr(Management, "ask", closed)
            assert begin_renewal(r.target, spec(), 1, pytest.fail) is None
        assert (await Answer(r).wait()).grant is not None


async def test_grants_that_come_together_are_told_together_and_none_of_what_ended_with_them():
    async with rig() as r:
        for number in range(4):
            await r.target.acquire(spec(f"s{number}"), 1)
        r.broker.on_management = lambda ask: None
        wanted = [SimpleNamespace(spec=spec(f"s{number}"), epoch=1, renewal=None) for number in range(4)]
        told = []
        r.target.begin_renewals(wanted, told.append)
        await r.broker.until(lambda: len(r.broker.asks) == 4)
        wanted[1].renewal.cancel()
        r.broker.asks[3].answer(410, "com.microsoft:session-lock-lost")
        for ask in r.broker.asks[:3]:
            ask.renew()
        await anyio.sleep(1)
        assert sorted([[one.spec.session_id for one in those] for those in told]) == [["s0", "s2"], ["s3"]]
        assert [one.renewal.grant is not None for one in (wanted[0], wanted[2], wanted[3])] == [True, True, False]


async def test_a_token_that_is_refused_is_replaced_and_the_renewal_asked_for_again():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.renew() if len(r.broker.asks) > 1 else ask.answer(401)
        renewal = await Answer(r).wait()
        assert renewal.grant is None
        tokens = len(r.broker.tokens)
        await anyio.sleep(0.01)  # A token that was put when the request was sent counts as the one that was refused.
        grant = await renewal.finish()
        assert grant.duration_s > 29
        assert len(r.broker.tokens) == tokens + 1
        assert len(r.broker.asks) == 2


async def test_a_lock_that_is_gone_is_lost_and_told_once():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(410, "com.microsoft:session-lock-lost")
        renewal = await Answer(r).wait()
        assert renewal.grant is None
        error = await failing(renewal.finish(), LeaseLostError)
        assert error.reason == LossReason.EXPIRED
        assert r.losses == []


async def test_a_broker_that_is_too_busy_is_asked_no_more_without_a_turn():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(503, "com.microsoft:server-busy")
        error = await failing((await Answer(r).wait()).finish(), TransientError)
        assert error.kind == "busy"
        assert begin_renewal(r.target, spec(), 1, pytest.fail) is None


async def test_a_reply_that_does_not_say_until_when_is_a_failure():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.answer(200, body={})
        renewal = await Answer(r).wait()
        assert renewal.grant is None
        assert (await failing(renewal.finish(), TransientError)).kind == "garbage"


async def test_with_its_connection_a_renewal_fails_and_says_that_the_session_is_lost():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.peer.stream.cut()
        renewal = await Answer(r).wait()
        assert renewal.grant is None
        await r.until_lost()
        error = await failing(renewal.finish(), LeaseLostError)
        assert error.reason == LossReason.CONNECTION_LOST


async def test_what_is_answered_after_it_was_cancelled_is_told_to_nobody():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: None
        cancelled = Answer(r)
        await r.broker.until(lambda: len(r.broker.asks) == 1)
        cancelled.renewal.cancel()
        r.broker.on_management = lambda ask: [one.renew() for one in r.broker.asks]
        assert (await Answer(r).wait()).grant is not None
        assert cancelled.all == []


async def test_a_renewal_asked_for_again_while_it_waits_is_sent_once_and_in_its_place():
    async with rig(request_window=1) as r:
        for session_id in ("s1", "s2", "s3"):
            await r.target.acquire(spec(session_id), 1)
        r.broker.on_management = lambda ask: None
        first, second, third = (Answer(r, session_id) for session_id in ("s1", "s2", "s3"))
        again = Answer(r, "s2")
        second.renewal.cancel()
        await r.broker.until(lambda: r.broker.asks)
        r.broker.on_management = lambda ask: ask.renew()
        r.broker.asks[0].renew()
        for answer in (first, again, third):
            assert (await answer.wait()).grant is not None
        assert [ask.session_id for ask in r.broker.asks] == ["s1", "s2", "s3"]
        assert second.all == []


async def test_of_renewals_of_one_lock_the_last_alone_counts_against_the_window_and_each_may_be_answered():
    async with rig(request_window=2) as r:
        for session_id in ("s1", "s2"):
            await r.target.acquire(spec(session_id), 1)
        r.broker.on_management = lambda ask: None
        late = [Answer(r) for _ in range(5)]
        await r.broker.until(lambda: len(r.broker.asks) == 5)
        r.broker.on_management = lambda ask: ask.renew()
        begun_at = r.clock.now()
        assert (await Answer(r, "s2").wait()).grant is not None
        assert r.clock.now() - begun_at < TICK_S
        r.broker.asks[0].renew()
        assert (await late[0].wait()).grant is not None
        assert [answer.all for answer in late[1:]] == [[]] * 4


async def test_what_waits_for_the_links_of_a_pair_is_asked_over_those_that_replace_it_and_no_longer_there(monkeypatch):
    monkeypatch.setattr(requests, "WINDOW_HOLD_S", 10.0)
    async with rig(request_window=1) as r:
        await r.target.acquire(spec(), 1)
        await r.target.acquire(spec("s2"), 1)
        r.broker.on_management = lambda ask: None
        Answer(r)
        waiting = Answer(r, "s2")
        await r.broker.until(lambda: r.broker.asks)
        # Nothing comes back: a second pair of links is attached.
        await anyio.sleep(requests.STALLED_S + 3 * TICK_S)
        r.broker.on_management = lambda ask: ask.renew()
        again = Answer(r, "s2")
        assert (await again.wait()).grant is not None
        await anyio.sleep(15)
        assert [ask.session_id for ask in r.broker.asks] == ["s1", "s2"]
        assert waiting.all == []


async def test_a_pair_that_lets_nothing_be_sent_is_backed_up_however_often_the_same_is_asked_for():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        await Answer(r).wait()
        # The broker takes no more requests over these links.
        r.broker.peer.requesters["orders/$management"].flow(0)
        r.broker.peer.transport.flush()
        first = r.broker.peer.requesters["orders/$management"]
        await anyio.sleep(0.1)
        answers = []
        for _ in range(4):
            answers.append(Answer(r))
            await anyio.sleep(0.8)
        assert r.broker.peer.requesters["orders/$management"] is not first
        assert (await answers[-1].wait()).grant is not None


async def test_replies_that_cannot_be_read_are_told_the_first_and_the_second_time_and_then_ever_less():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        r.broker.on_management = lambda ask: ask.send(b"\x00\x53\x77\xc1\x03\x02\xa1\x09s3cret")
        with structlog.testing.capture_logs() as logs:
            for count in range(1, 6):
                begin_renewal(r.target, spec(), 1, pytest.fail).cancel()
                await r.broker.until(lambda count=count: len(r.broker.asks) == count)
                await anyio.sleep(0.1)
        told = [line for line in logs if line["event"] == "reply not readable"]
        assert [line["count"] for line in told] == [1, 2, 4]
        assert {line["node"] for line in told} == {"orders/$management"}
        assert told[0]["error"]
        assert "s3cret" not in str(logs)


async def test_replies_are_settled_together_and_soon_though_nothing_else_is_asked():
    async with rig() as r:
        await r.target.acquire(spec(), 1)
        for _ in range(3):
            await Answer(r).wait()
        replier = r.broker.peer.repliers["orders/$management"]
        # That of the last one goes with the request after it.
        assert len(replier.unsettled) == 1
        await anyio.sleep(1.5 * TICK_S)
        assert not replier.unsettled
