"""Renewals of message locks, many in one request.

What is asked of one place within a few milliseconds goes out together. The broker then renews all of them or, because
of a single one that is lost, none, and does not say which: such a batch is asked for again in small parts at once, and
what was lost in the small ones one by one. So a lost lock costs those beside it two more requests' time.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

import anyio
import structlog

from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, RemoteError, TransientError
from renewer.targets.servicebus.managementops import read_expirations, renew_message_locks
from renewer.targets.servicebus.verdicts import copy_of, is_unusable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from anyio.abc import TaskGroup, TaskStatus

    from renewer.ports import Clock
    from renewer.targets.servicebus.envelope import Reply, Template
    from renewer.targets.servicebus.pacing import Pace

COLLECT_S: Final = 0.003
"""How long a renewal waits for others to go with it."""

ONE_BY_ONE: Final = 16
"""A batch with a lost lock in it is asked for one by one if it is no larger than this."""

log = structlog.get_logger("renewer.servicebus")

_TOKEN: Final = re.compile(r"[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)


class Place(Protocol):
    """Where locks can be renewed together: equal places share requests. Hashable."""

    @property
    def entity(self) -> str:
        """The entity that the messages are of."""
        ...

    @property
    def link_name(self) -> str | None:
        """The link on whose behalf it is done; None where it is on nobody's."""
        ...

    async def request(self, ask: Template) -> Reply:
        """Ask the entity's management node. The errors are those of `Management.request`."""
        ...


@dataclass(frozen=True, slots=True)
class Renewed:
    """A lock was renewed: until when by the broker's clock (epoch seconds), asked and answered at these moments.

    `locked_until` is None where the broker does not say.
    """

    locked_until: float | None
    sent_at: float
    received_at: float


class LockBatches:
    """The renewals of message locks of one namespace. `serve` it."""

    def __init__(self, pace: Pace, clock: Clock, *, most: int) -> None:
        self.requests = 0
        """How many requests went out."""
        self._pace = pace
        self._clock = clock
        self._most = most
        self._limits: dict[str, int] = {}
        self._lines: dict[tuple[Place, bool], _Line] = {}
        self._wishes: set[_Wish] = set()
        self._tasks: TaskGroup | None = None

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Send batches, until cancelled; those who wait then are told so."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self._tasks = None
            _fail([*self._wishes], TransientError("the target is stopping", kind="network"))

    async def renew(self, place: Place, token: UUID, *, lock_s: float, deadline: float) -> Renewed:
        """Renew one lock, with whatever others are asked for now. `deadline` says who goes first when not all can.

        The errors are those of `Management.request`, without any token in their words.
        """
        if self._tasks is None:
            raise TransientError("the target is not running", kind="network")
        wish = self._waiting(place, token)
        if wish is None:
            wish = _Wish(token, lock_s, deadline)
            self._wishes.add(wish)
            self._queue(place, wish)
        wish.users += 1
        try:
            await wish.done.wait()
        finally:
            wish.users -= 1
            if not wish.users:
                self._drop(wish)
        if wish.error is not None:
            raise copy_of(wish.error)
        assert wish.answer is not None  # noqa: S101 - done is set after one of the two
        return wish.answer

    def withdraw(self, place: Place, token: UUID) -> None:
        """Do not ask for this one again: its message is about to be settled, and would spoil a batch."""
        waiting = self._waiting(place, token)
        for wish in [wish for wish in self._wishes if wish.token == token] if waiting is None else [waiting]:
            wish.is_withdrawn = True

    def _waiting(self, place: Place, token: UUID) -> _Wish | None:
        """The wish for this lock that waits to be sent, if there is one."""
        lines = (self._lines.get((place, is_overdue)) for is_overdue in (False, True))
        return next((line.waiting[token] for line in lines if line is not None and token in line.waiting), None)

    def _queue(self, place: Place, wish: _Wish) -> None:
        # What should have ended would spoil a batch, and must not be waited for either.
        key = place, wish.deadline <= self._clock.now()
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(*key, self._limits.get(place.entity, self._most))
        line.waiting[wish.token] = wish
        wish.line = line
        if len(line.waiting) >= line.most:
            line.is_full.set()
        if not line.is_collecting and self._tasks is not None:
            line.is_collecting = True
            self._tasks.start_soon(self._collect, line)

    async def _collect(self, line: _Line) -> None:
        try:
            while line.waiting and self._tasks is not None:
                if len(line.waiting) < line.most:
                    line.is_full = anyio.Event()
                    with anyio.move_on_after(COLLECT_S):
                        await line.is_full.wait()
                if line.waiting:
                    # While turns are awaited, more come together.
                    await self._pace.turn(min(wish.deadline for wish in line.waiting.values()))
                if not line.is_overdue:
                    for late in [wish for wish in line.waiting.values() if wish.deadline <= self._clock.now()]:
                        del line.waiting[late.token]
                        self._queue(line.place, late)
                self._tasks.start_soon(self._send, line, line.take())
        finally:
            line.is_collecting = False
            key = line.place, line.is_overdue
            if not line.waiting and self._lines.get(key) is line:
                del self._lines[key]

    async def _send(self, line: _Line, wishes: Sequence[_Wish], *, paced: bool = True) -> None:
        wishes = [wish for wish in wishes if wish.users]
        _fail([wish for wish in wishes if wish.is_withdrawn], _WITHDRAWN)
        wishes = [wish for wish in wishes if not wish.is_withdrawn]
        if not wishes:
            return
        if not paced:
            await self._pace.turn(min(wish.deadline for wish in wishes))
        batch = _Batch(wishes)
        with batch.scope:
            await self._ask(line, wishes)

    async def _ask(self, line: _Line, wishes: Sequence[_Wish]) -> None:
        tokens = [wish.token for wish in wishes]
        place = line.place
        lock_s = min(wish.lock_s for wish in wishes)
        ask = renew_message_locks(place.entity, tokens, lock_s=lock_s, link_name=place.link_name)
        self.requests += 1
        try:
            reply = await place.request(ask)
            expirations = read_expirations(reply, len(wishes))
        except RemoteError as error:
            self._pace.note(error)
            self._refused(line, wishes, copy_of(error, text=without_tokens(str(error), tokens)))
            return
        except Exception as error:
            # A bug of ours must cost these renewals, not the target with every other lock.
            log.exception("renewals raised an unexpected error", entity=place.entity)
            _fail(wishes, TransientError(f"unexpected {type(error).__name__}", kind="garbage"))
            return
        for wish, locked_until in zip(wishes, expirations, strict=True):
            wish.answer = Renewed(locked_until, reply.sent_at, reply.received_at)
            wish.done.set()

    def _refused(self, line: _Line, wishes: Sequence[_Wish], error: RemoteError) -> None:
        count = len(wishes)
        has_lost = isinstance(error, LeaseLostError) and error.reason == LossReason.EXPIRED
        too_many = is_unusable(error.condition)
        is_garbled = isinstance(error, TransientError) and error.kind == "garbage"
        if count == 1 or not (has_lost or too_many or is_garbled) or self._tasks is None:
            _fail(wishes, error)
            return
        size = 1 if count <= ONE_BY_ONE else math.isqrt(count - 1) + 1
        if too_many:
            # A broker that does not take so many, or not these together.
            size = self._limits[line.place.entity] = line.most = max(1, min(line.most, count) // 4)
        for start in range(0, count, size):
            self._tasks.start_soon(lambda part: self._send(line, part, paced=False), wishes[start : start + size])

    def _drop(self, wish: _Wish) -> None:
        """Nobody waits for it any longer, be it answered or not."""
        self._wishes.discard(wish)
        if wish.line is not None and wish.line.waiting.get(wish.token) is wish:
            del wish.line.waiting[wish.token]
        if wish.batch is not None:
            wish.batch.left()


def without_tokens(text: str, tokens: Collection[UUID]) -> str:
    """The broker's words, in which tokens may be repeated."""
    secret = {form for token in tokens for form in (token.hex, token.bytes_le.hex())}

    def hide(match: re.Match[str]) -> str:
        return "<redacted>" if match[0].replace("-", "").lower() in secret else match[0]

    return _TOKEN.sub(hide, text)


class _Line:
    """What waits to be asked of one place. `most` is how many locks a request may have."""

    __slots__ = ("is_collecting", "is_full", "is_overdue", "most", "place", "waiting")

    def __init__(self, place: Place, is_overdue: bool, most: int) -> None:
        self.place = place
        self.is_overdue = is_overdue
        self.most = most
        self.waiting: dict[UUID, _Wish] = {}
        self.is_collecting = False
        self.is_full = anyio.Event()

    def take(self) -> list[_Wish]:
        """The next batch: what ends first goes first."""
        wishes = [*self.waiting.values()]
        if len(wishes) > self.most:
            wishes = sorted(wishes, key=lambda wish: wish.deadline)[: self.most]
        for wish in wishes:
            del self.waiting[wish.token]
        return wishes


class _Wish:
    """One lock that is to be renewed; `users` wait for it."""

    __slots__ = ("answer", "batch", "deadline", "done", "error", "is_withdrawn", "line", "lock_s", "token", "users")

    def __init__(self, token: UUID, lock_s: float, deadline: float) -> None:
        self.token = token
        self.lock_s = lock_s
        self.deadline = deadline
        self.users = 0
        self.is_withdrawn = False
        self.line: _Line | None = None
        self.batch: _Batch | None = None
        self.done = anyio.Event()
        self.answer: Renewed | None = None
        self.error: RemoteError | None = None


class _Batch:
    """A request under way, given up when nobody waits for any of its locks."""

    __slots__ = ("_left", "scope")

    def __init__(self, wishes: Sequence[_Wish]) -> None:
        self.scope = anyio.CancelScope()
        self._left = len(wishes)
        for wish in wishes:
            wish.batch = self

    def left(self) -> None:
        """One of its locks is not waited for any longer."""
        self._left -= 1
        if not self._left:
            self.scope.cancel()


_WITHDRAWN: Final = TransientError("the message is being settled", kind="busy", condition="renewer:settling")


def _fail(wishes: Sequence[_Wish], error: RemoteError) -> None:
    for wish in wishes:
        if not wish.done.is_set():
            wish.error = error
            wish.done.set()
