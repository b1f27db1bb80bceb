"""Replays recorded operations through the scheduler, on literal time.

A recording is `{"request": {"method", "url"}, "accepted": ANSWER, "polls": [ANSWER…], "result": ANSWER or null}`, an
ANSWER `{"url", "status", "headers", "body"}` with the body as text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from renewer.core.effects import Attempt, StartFetch, StartPoll, StartSubmit
from renewer.core.events import Event, OperationAnswered, OperationAttemptFailed, OperationRegistered, ResultFetched
from renewer.core.model import OperationSpec, PollAnswer, Transient
from renewer.core.operations import Operation
from renewer.core.scheduler import Scheduler
from renewer.core.states import is_over
from renewer.errors import TransientError
from renewer.targets.fabric import FabricTarget
from tests.targets.fabric_rig import CountedTokens, FixedClock, fabric_options, reply, spec_of

Recording = Mapping[str, Any]

TRANSFER_S = 0.125
"""Every exchange takes so long, on the literal clock."""


@dataclass
class Exchange:
    """One request that the service saw, and the seconds that its answer asked to wait."""

    path: str
    asked_at: float
    answered_at: float
    told_s: float


@dataclass
class RecordedService:
    """Plays one recording: its answers in their order at their own paths, 404 elsewhere, 429 every so often."""

    recording: Recording
    clock: FixedClock
    throttle_every: int | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._polls = deque(self.recording["polls"])
        self._state_path = httpx.URL(self._polls[0]["url"]).path

    def answer(self, request: httpx.Request) -> httpx.Response:
        asked_at = self.clock.now()
        self.clock.pass_s(TRANSFER_S)
        self.hosts.add(request.url.host)
        response = self._response(request)
        told_s = float(response.headers.get("Retry-After", 0))
        self.exchanges.append(Exchange(request.url.path, asked_at, self.clock.now(), told_s))
        return response

    @property
    def hasty(self) -> list[Exchange]:
        """Requests that came before the moment that the answer before them named."""
        pairs = zip(self.exchanges, self.exchanges[1:], strict=False)
        return [after for before, after in pairs if after.asked_at < before.answered_at + before.told_s]

    def _response(self, request: httpx.Request) -> httpx.Response:
        if self.throttle_every is not None and len(self.exchanges) % self.throttle_every == self.throttle_every - 1:
            return reply(429, {"errorCode": "RequestBlocked", "message": "later"}, {"Retry-After": "30"})
        path, first = request.url.path, self.recording["request"]
        if (request.method, path) == (first["method"], httpx.URL(first["url"]).path):
            return _play(self.recording["accepted"])
        if (request.method, path) == ("GET", self._state_path) and self._polls:
            return _play(self._polls.popleft())
        if (request.method, path) == ("GET", f"{self._state_path}/result") and self.recording["result"] is not None:
            return _play(self.recording["result"])
        return reply(404, {"errorCode": "OperationNotFound", "message": f"nothing recorded for {path}"})


async def follow(
    recording: Recording, *, adopted: bool = False, throttle_every: int | None = None
) -> tuple[Operation, RecordedService]:
    """Follow one recording to its end; submitted by us, or adopted with the recorded first answer."""
    clock = FixedClock()
    service = RecordedService(recording, clock, throttle_every)
    client = httpx.AsyncClient(transport=httpx.MockTransport(service.answer))
    # Some recordings began on a host beside the configured one.
    host = httpx.URL(recording["request"]["url"]).host
    target = FabricTarget(fabric_options(allow_hosts=(host,)), CountedTokens(), clock, client)
    document = dict(recording["request"])
    if adopted:
        accepted = recording["accepted"]
        document |= {"status": accepted["status"], "headers": accepted["headers"], "body": accepted["body"]}
        told_s = float(accepted["headers"].get("Retry-After", 0))
        service.exchanges.append(Exchange(document["url"], clock.now(), clock.now(), told_s))
    prepared = target.prepare("adopt" if adopted else "submit", document)
    spec = spec_of(prepared.request)
    return await run_to_end(target, spec, prepared.first, clock), service


async def run_to_end(
    target: FabricTarget, spec: OperationSpec, first: PollAnswer | None, clock: FixedClock
) -> Operation:
    """Do what the scheduler says when it says it, until the operation is over."""
    scheduler = Scheduler()
    effects = deque(scheduler.handle(OperationRegistered(spec, first), clock.now(), 0.5))
    operation = scheduler.operation(spec.id)
    assert operation is not None
    while not is_over(operation.state):
        if not effects:
            due_at = scheduler.next_due()
            assert due_at is not None
            clock.pass_s(max(0.0, due_at - clock.now()))
            effects += scheduler.advance(clock.now(), lambda: 0.5)
        while effects:
            effect = effects.popleft()
            if isinstance(effect, StartSubmit | StartPoll | StartFetch):
                event = await _attempt(target, effect)
                effects += scheduler.handle(event, clock.now(), 0.5)
    return operation


async def _attempt(target: FabricTarget, effect: Attempt) -> Event:
    try:
        match effect:
            case StartSubmit(spec, attempt):
                return OperationAnswered(spec.id, attempt, await target.submit(spec))
            case StartPoll(spec, ticket, attempt):
                return OperationAnswered(spec.id, attempt, await target.poll(spec, ticket))
            case StartFetch(spec, ticket, attempt):
                return ResultFetched(spec.id, attempt, await target.fetch(spec, ticket))
            case _:
                raise AssertionError(effect)
    except TransientError as error:
        failure = Transient(error.kind, str(error), error.retry_after_s)
        return OperationAttemptFailed(effect.spec.id, effect.attempt, failure)


def _play(answer: Recording) -> httpx.Response:
    return httpx.Response(answer["status"], headers=answer["headers"], content=answer["body"].encode())
