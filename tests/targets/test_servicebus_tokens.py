"""Tokens over hours of virtual time, against a broker that drops the links of whoever's token has ended."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
import structlog

from renewer.core.model import LeaseId, LeaseSpec
from renewer.core.states import LeaseKind, LossReason
from renewer.errors import LeaseLostError, TransientError
from renewer.targets.servicebus import ReadySignature
from renewer.targets.servicebus.credentials import SCOPE, IdentityTokens
from renewer.targets.tokens import AzureIdentityToken
from tests.targets.scripted_broker import scripted_broker
from tests.targets.servicebus_rig import Rig, failing, spec
from tests.targets.test_servicebus_messages import answer_both
from tests.virtualtime import VirtualClock, virtual

pytestmark = pytest.mark.anyio

LIFE_S = 60
HOUR_S = 3600


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return virtual(request.param)


@dataclass
class Given:
    token: str
    expires_on: int


@dataclass
class Identity:
    """Gives tokens of a short life, or fails."""

    clock: VirtualClock
    lasts_s: float = LIFE_S
    is_down: bool = False
    asked: int = 0
    ends: dict = field(default_factory=dict)

    @asynccontextmanager
    async def open(self):
        yield self

    async def get_token(self, scope):
        assert scope == SCOPE
        self.asked += 1
        if self.is_down:
            raise RuntimeError("the identity service is down")
        text = f"token-{self.asked}"
        self.ends[text] = self.clock.now() + self.lasts_s
        return Given(text, int(self.clock.utc_now().timestamp() + self.lasts_s))


class Claims:
    """Lets a scripted broker look at tokens: one that has ended is refused, and costs the entity its links."""

    def __init__(self, broker, clock, ends, condition="amqp:unauthorized-access"):
        self.broker = broker
        self.clock = clock
        self.ends = ends
        self.condition = condition
        self.claims = {}
        self.puts = []
        broker.on_token = self.on_token
        broker.on_management = self.on_management

    def on_token(self, ask):
        text, fields = ask.message.body.value, ask.message.application_properties
        entity = fields["name"].rpartition("/")[2]
        ends_at = self.ends.get(text, 0.0)
        if ends_at <= self.clock.now():
            ask.answer(401, kebab=True)
            return
        self.puts.append((entity, fields["type"]))
        self.claims[ask.peer.connection, entity] = ends_at
        ask.answer(202, kebab=True)

    def on_management(self, ask):
        if (ask.peer.connection, ask.node.partition("/")[0]) in self.claims:
            answer_both(ask)
        else:
            ask.answer(401)

    async def run(self):
        while True:
            now = self.clock.now()
            await anyio.sleep(min(max(0.1, min(self.claims.values(), default=now + 1) - now), 1.0))
            for (connection, entity), ends_at in list(self.claims.items()):
                if ends_at <= self.clock.now():
                    del self.claims[connection, entity]
                    self.drop(connection, entity)

    def drop(self, connection, entity):
        for peer in self.broker.peers:
            if peer.connection is connection:
                for ask in peer.sessions:
                    if self.broker.held.get((entity, ask.wanted)) is ask.link:
                        peer.detach(ask.link, self.condition)
                for ends in (peer.repliers, peer.requesters):
                    link = ends.pop(f"{entity}/$management", None)
                    if link is not None:
                        peer.detach(link, self.condition)


class Story:
    """A target with its broker, and what may be told of it."""

    def __init__(self, rig, claims, identity):
        self.rig = rig
        self.target = rig.target
        self.claims = claims
        self.identity = identity

    @property
    def losses(self):
        return self.rig.losses

    async def renew_for(self, span_s, *specs, every_s=10):
        """Renew all of them for so long; every renewal is granted."""
        until = anyio.current_time() + span_s
        while anyio.current_time() < until:
            await anyio.sleep(every_s)
            for one in specs:
                await self.target.renew(one, 1)


@asynccontextmanager
async def story(*, lasts_s=LIFE_S, condition="amqp:unauthorized-access", signature_s=None):
    """With `signature_s` a ready signature that lasts so long; else an identity."""
    clock = VirtualClock()
    identity = Identity(clock, lasts_s)
    changes = {"lock_duration_s": 30.0}
    if signature_s is None:
        changes["provider"] = IdentityTokens(AzureIdentityToken(SCOPE, identity.open, clock=clock), "default")
    else:
        ends_at = int(clock.utc_now().timestamp()) + signature_s
        changes["credential"] = ReadySignature("SharedAccessSignature sig=TOPSECRET", "policy", ends_at)
        identity.ends["SharedAccessSignature sig=TOPSECRET"] = clock.now() + signature_s
    async with scripted_broker() as broker:
        claims = Claims(broker, clock, identity.ends, condition)
        rig = Rig(broker, clock, **changes)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(claims.run)
            await tasks.start(rig.run)
            yield Story(rig, claims, identity)
            tasks.cancel_scope.cancel()


# Identities -----------------------------------------------------------------------------------------------------------


async def test_a_token_of_a_minute_is_put_again_in_time_for_an_hour_and_nothing_is_lost():
    async with story() as told:
        await told.target.acquire(spec("a"), 1)
        await told.target.acquire(spec("b", entity="other"), 1)
        await told.renew_for(HOUR_S, spec("a"), spec("b", entity="other"))
        assert told.losses == []
        for entity in ("orders", "other"):
            # Twenty seconds and a little more apart, and no more often than is needed.
            assert 120 <= told.claims.puts.count((entity, "jwt")) <= 181
        # One request to the identity serves both.
        assert told.identity.asked <= 181
        assert told.target.token_failures == 0


async def test_tokens_are_put_again_though_nothing_else_happens():
    async with story() as told:
        await told.target.acquire(spec("a"), 1)
        await anyio.sleep(HOUR_S)
        assert told.losses == []
        assert len(told.claims.puts) >= 120


async def test_tokens_of_an_hour_cost_few_requests():
    async with story(lasts_s=HOUR_S) as told:
        await told.target.acquire(spec("a"), 1)
        await anyio.sleep(6 * HOUR_S)
        assert told.losses == []
        assert 12 <= told.identity.asked <= 19


async def test_an_identity_that_fails_for_half_the_life_of_a_token_costs_nothing():
    async with story() as told:
        await told.target.acquire(spec("a"), 1)
        for offset_s in range(0, 60, 5):
            await told.renew_for(60 + offset_s, spec("a"), every_s=5)
            told.identity.is_down = True
            await told.renew_for(30, spec("a"), every_s=5)
            told.identity.is_down = False
        assert told.losses == []
        assert told.target.trouble is None or "is down" in told.target.trouble
        assert told.target.token_failures > 0


async def test_an_identity_that_gives_the_same_token_again_is_not_an_error():
    async with story(lasts_s=HOUR_S) as told:
        await told.target.acquire(spec("a"), 1)
        first = Given("token-1", int(told.rig.clock.utc_now().timestamp()) + HOUR_S)
        get_token = told.identity.get_token

        async def cached(scope):
            return first

        told.identity.get_token = cached
        await anyio.sleep(0.95 * HOUR_S)
        told.identity.get_token = get_token
        await anyio.sleep(HOUR_S)
        assert told.losses == []
        assert told.claims.puts[0] == ("orders", "jwt")


@pytest.mark.parametrize("condition", ["amqp:unauthorized-access", "amqp:link:detach-forced"])
async def test_an_identity_that_fails_to_the_end_costs_the_session_once_and_says_why(condition):
    async with story(condition=condition) as told:
        await told.target.acquire(spec("a"), 1)
        told.identity.is_down = True
        with structlog.testing.capture_logs() as logs:
            await anyio.sleep(300)
        (loss,) = told.losses
        assert loss.reason is LossReason.UNAUTHORIZED
        assert "the identity service is down" in loss.detail
        assert "check the identity" in loss.detail
        warned = [entry for entry in logs if entry["event"] == "token not refreshed"]
        assert warned[0]["ends_in_s"] > 30
        assert 5 <= len(warned) <= 40
        error = await failing(told.target.acquire(spec("a"), 2), TransientError)
        assert error.kind == "unauthorized"
        assert "is down" in str(told.target.trouble)
        told.identity.is_down = False
        await anyio.sleep(6)
        await told.target.acquire(spec("a"), 2)
        assert len(told.losses) == 1


async def test_a_message_lock_outlives_an_identity_that_is_away_for_a_while():
    lease = LeaseSpec(
        LeaseId("m"), "servicebus.main", "plain", kind=LeaseKind.MESSAGE, lock_token=str(uuid.UUID(int=77))
    )
    async with story() as told:
        await told.target.acquire(lease, 1)
        told.identity.is_down = True
        await told.renew_for(30, lease)
        await anyio.sleep(40)
        error = await failing(told.target.renew(lease, 1), TransientError)
        assert error.kind == "unauthorized"
        told.identity.is_down = False
        await anyio.sleep(10)
        await told.target.renew(lease, 1)


async def test_no_connection_is_made_while_the_identity_has_no_token():
    async with story() as told:
        told.identity.is_down = True
        error = await failing(told.target.acquire(spec("a"), 1), TransientError)
        assert error.kind == "unauthorized"
        assert "check the identity" in str(error)
        assert told.claims.broker.connects == 0
        assert "the identity service is down" in str(told.target.trouble)


async def test_a_token_that_takes_longer_than_a_connection_may_is_waited_for():
    async with story() as told:
        get_token = told.identity.get_token

        async def slow(scope):
            await anyio.sleep(25)
            return await get_token(scope)

        told.identity.get_token = slow
        await told.target.acquire(spec("a"), 1)
        assert told.claims.broker.connects == 1


async def test_a_token_that_is_refused_is_asked_for_anew_once():
    async with story(lasts_s=HOUR_S) as told:
        await told.target.acquire(spec("a"), 1)
        await anyio.sleep(700)
        told.identity.ends.clear()
        await told.target.acquire(spec("b", entity="other"), 1)
        assert told.identity.asked == 2


async def test_an_identity_whose_tokens_are_refused_is_told_with_what_it_lacks():
    async with story(lasts_s=HOUR_S) as told:
        told.claims.broker.on_token = lambda ask: ask.answer(401, kebab=True)
        error = await failing(told.target.acquire(spec("a"), 1), LeaseLostError)
        assert error.reason == LossReason.UNAUTHORIZED
        assert "Azure Service Bus Data Receiver" in str(error)
        # It is as fresh as can be: another one would meet the same refusal.
        assert told.identity.asked == len(told.claims.broker.tokens) == 1
        assert "token-" not in str(error)


# Ready signatures -----------------------------------------------------------------------------------------------------


async def test_a_ready_signature_is_put_once_and_serves_until_it_ends():
    async with story(signature_s=HOUR_S) as told:
        await told.target.acquire(spec("a"), 1)
        await told.renew_for(HOUR_S - 20, spec("a"))
        assert told.losses == []
        assert told.claims.puts == [("orders", "servicebus.windows.net:sastoken")]


@pytest.mark.parametrize("condition", ["amqp:unauthorized-access", "amqp:link:detach-forced"])
async def test_the_end_of_a_ready_signature_is_a_loss_with_a_remedy(condition):
    async with story(signature_s=HOUR_S, condition=condition) as told:
        await told.target.acquire(spec("a"), 1)
        await anyio.sleep(HOUR_S + 60)
        (loss,) = told.losses
        assert loss.reason is LossReason.UNAUTHORIZED
        assert "put a new SharedAccessSignature" in loss.detail
        assert "restart" in loss.detail
        error = await failing(told.target.acquire(spec("a"), 2), LeaseLostError)
        assert error.reason == LossReason.UNAUTHORIZED
        assert "'policy' ended at 2026-" in str(error)
        assert "'policy' ended at 2026-" in str(told.target.trouble)
        assert "TOPSECRET" not in f"{loss} {error} {told.target.trouble} {told.target.options}"


async def test_the_end_of_a_ready_signature_is_warned_of_well_before_and_not_all_the_time():
    with structlog.testing.capture_logs() as logs:
        async with story(signature_s=86_400 + 600):
            await anyio.sleep(86_400 + 660)
    told = [(entry["log_level"], entry.get("ends_in_s")) for entry in logs if "signature" in entry["event"]]
    assert [level for level, _ in told] == ["warning"] * 4 + ["error"]
    assert told[0] == ("warning", 86_400 + 600)  # There is less than a week left.
    for (_, left_s), before_s in zip(told[1:4], (86_400, 3600, 600), strict=True):
        assert before_s - 31 <= left_s <= before_s
    assert "TOPSECRET" not in repr(logs)


async def test_a_signature_that_has_ended_by_our_clock_alone_is_used_for_as_long_as_the_broker_takes_it():
    async with story(signature_s=HOUR_S) as told:
        told.identity.ends["SharedAccessSignature sig=TOPSECRET"] += 4 * HOUR_S
        await told.target.acquire(spec("a"), 1)
        await told.renew_for(2 * HOUR_S, spec("a"))
        await told.target.acquire(spec("b", entity="other"), 1)
        assert told.losses == []
