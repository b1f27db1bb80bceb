"""Brokers that are not like ours: other encodings, small frames, few handles. Locks are kept before each of them.

All are held at the same time, by raw workers who do nothing at all for longer than their locks last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from renewer.amqp import Accepted, Message, Value
from renewer.emulator.broker import BrokerOptions
from tests.emulator.broker_rig import Client, Rig, WatchedBroker
from tests.gateway.judges.gateway_process import Gateways, JudgedBroker, gateways_before, judged_broker
from tests.gateway.raw_peers import signature
from tests.gateway.wide_encodings import wide_proxy

LOCK_S = 5.0
IDLE_S = 7.0
PATIENCE_S = 60.0
SMALL = 300
LARGE = 20_000

OPTIONS = {
    "wide": BrokerOptions(),
    "frames-of-512": BrokerOptions(max_frame_size=512),
    "frames-of-4096": BrokerOptions(max_frame_size=4096),
    "few-handles": BrokerOptions(handle_max=7),
    "wide-and-small": BrokerOptions(max_frame_size=512, handle_max=7),
}


@dataclass(frozen=True)
class Scene:
    broker: JudgedBroker
    gateways: Gateways
    kind: str

    async def play(self) -> None:
        """A session, and a plain queue's messages, kept by nobody but the gateway."""
        sessions = self.broker.queue(sessions=True, lock_duration_s=LOCK_S)
        plain = self.broker.queue(lock_duration_s=LOCK_S)
        rig = Rig(WatchedBroker(), self.gateways.ports[self.kind])  # Only for its client.
        with anyio.fail_after(PATIENCE_S):
            async with rig.client() as worker:
                for entity in (sessions, plain):
                    await self.let_in(worker, entity)
                await worker.fill(plain, *("x" * size for size in (SMALL, LARGE) * 5))
                session = await worker.receiver(sessions, session_id="s")
                receiver = await worker.receiver(plain)
                messages = await worker.receive(receiver, 10)
                sizes = [len(Message.decode(message.payload).body.value) for message in messages]  # type: ignore[union-attr]
                assert sizes == [SMALL, LARGE] * 5
                await anyio.sleep(IDLE_S)
                for message in messages:
                    assert await worker.settle(message, Accepted()) == Accepted()
                answer = await worker.renew(sessions, "s", link=session.name)
                assert answer.status == 200, answer
                state = {"session-id": "s", "session-state": b"\0" * LARGE}
                assert (await worker.manage(sessions, "set-session-state", state, link=session.name)).status == 200
                answer = await worker.manage(sessions, "get-session-state", {"session-id": "s"}, link=session.name)
                assert answer.body["session-state"] == b"\0" * LARGE
                await worker.fill(plain, "again")
                (message,) = await worker.receive(receiver, 1)
                assert Message.decode(message.payload).body == Value("again")
                await worker.settle(message, Accepted())

    async def let_in(self, worker: Client, entity: str) -> None:
        audience = f"sb://127.0.0.1:5672/{entity}"
        token = signature(audience, "local", self.gateways.keys["local"])
        assert await worker.put_token(entity, token) in {200, 202}


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, BaseException | None]]:
    """What became of each: None, or what went wrong."""
    with contextlib.ExitStack() as stack:
        brokers = {name: stack.enter_context(judged_broker(options)) for name, options in OPTIONS.items()}
        at = {name: broker.port for name, broker in brokers.items()}
        for name in ("wide", "wide-and-small"):
            at[name] = stack.enter_context(wide_proxy(at[name])).port
        others = {
            name: broker.connection_string.replace(f":{broker.port};", f":{at[name]};")
            for name, broker in brokers.items()
        }
        gateways = stack.enter_context(gateways_before(others["wide"], others=others))
        portal = stack.enter_context(start_blocking_portal())
        playing = {
            name: portal.start_task_soon(partial(Scene(broker, gateways, name).play))
            for name, broker in brokers.items()
        }
        yield {name: future.exception(PATIENCE_S) for name, future in playing.items()}


@pytest.mark.parametrize("name", OPTIONS)
def test_locks_are_kept_before_another_broker(outcomes: dict[str, BaseException | None], name: str) -> None:
    error = outcomes[name]
    if error is not None:
        raise error
