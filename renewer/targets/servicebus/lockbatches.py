"""Renewals of message locks, many in one request.

What is asked of one place within a few milliseconds goes out together. The broker then renews all of them or, because
of a single one that is lost, none, and does not say which: such a batch is asked for again in small parts at once, and
what was lost in the small ones one by one. So a lost lock costs those beside it two more requests' time.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias
from uuid import UUID

import anyio
import structlog

from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, RemoteError, TransientError
from renewer.targets.servicebus.managementops import read_expirations, renew_message_locks
from renewer.targets.servicebus.verdicts import copy_of, is_unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

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


Told: TypeAlias = "Callable[[Sequence[Any]], None]"
"""Told of wishes that came to their answers together; each once."""


class Wish:
    """A lock that is to be renewed, for one who waits. `told` is called once, when there is an `answer`.

    The errors are those of `Management.request`, without any token in their words.
    """

    __slots__ = ("answer", "batch", "deadline", "is_over", "is_withdrawn", "line", "lock_s", "token", "told", "twins")

    def __init__(self, token: UUID, lock_s: float, deadline: float, told: Told) -> None:
        self.token = token
        self.lock_s = lock_s
        self.deadline = deadline
        self.told = told
        self.answer: Renewed | RemoteError | None = None
        self.is_over = False
        self.is_withdrawn = False
        self.twins: tuple[Wish, ...] = ()
        """Others who wait for the same lock, and go with this one."""
        self.line: _Line | None = None
        self.batch: _Batch | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for it."""
        return not self.is_over or (bool(self.twins) and any(not twin.is_over for twin in self.twins))

    def cancel(self) -> None:
        """Wait no longer: `told` is not called any more. No error after it was."""
        if self.is_over:
            return
        self.is_over = True
        line, batch = self.line, self.batch
        if batch is not None:
            batch.left()
        elif line is not None:
            line.left(self)


class LockBatches:
    """The renewals of message locks of one namespace. `serve` it."""

    def __init__(self, pace: Pace, clock: Clock, *, most: int) -> None:
        self.requests = 0
        """How many requests went out."""
        self._pace = pace
        self._clock = clock
        self._most = most
        self._limits: dict[str, int] = {}
        self._queues: dict[Place, _Queue] = {}
        self._batches: set[_Batch] = set()
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
            _fail(self._everybody(), _STOPPING)
            self._queues.clear()
            self._batches.clear()

    async def renew(self, place: Place, token: UUID, *, lock_s: float, deadline: float) -> Renewed:
        """Renew one lock, with whatever others are asked for now. `deadline` says who goes first when not all can.

        The errors are those of `Management.request`, without any token in their words.
        """
        answered = anyio.Event()
        wish = Wish(token, lock_s, deadline, lambda _: answered.set())
        self.ask(place, [wish])
        try:
            await answered.wait()
        finally:
            wish.cancel()
        if isinstance(wish.answer, Renewed):
            return wish.answer
        assert wish.answer is not None  # noqa: S101 - it is there before that is told
        raise wish.answer

    def ask(self, place: Place, wishes: Sequence[Wish]) -> None:
        """Have locks renewed, as `renew` does, without a task that waits. TransientError if the target does not run."""
        if self._tasks is None:
            raise TransientError("the target is not running", kind="network")
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = _Queue(place, self._limits.get(place.entity, self._most))
        valid, overdue = queue.valid.waiting, queue.overdue.waiting
        for wish in wishes:
            number = wish.token.int
            first = valid.get(number) or overdue.get(number)
            if first is None:
                valid[number] = wish
                wish.line = queue.valid
            else:
                wish.line = first.line
                first.twins = (*first.twins, wish)
        self._gather(queue, queue.valid)

    def withdraw(self, place: Place, token: UUID) -> None:
        """Do not ask for this one again: its message is about to be settled, and would spoil a batch."""
        queue = self._queues.get(place)
        waiting = None if queue is None else queue.waiting(token)
        sent = (wish for batch in self._batches for wish in batch.wishes if wish.token == token)
        for wish in sent if waiting is None else [waiting]:
            wish.is_withdrawn = True

    def _everybody(self) -> list[Wish]:
        """All who wait for answers."""
        lines = [line for queue in self._queues.values() for line in (queue.valid, queue.overdue)]
        waiting = [wish for line in lines for wish in line.waiting.values()]
        return [*waiting, *(wish for batch in self._batches for wish in batch.wishes)]

    def _gather(self, queue: _Queue, line: _Line) -> None:
        """Have what waits there asked for, soon."""
        if len(line.waiting) >= queue.most:
            line.is_full.set()
        if line.waiting and not line.is_collecting and self._tasks is not None:
            line.is_collecting = True
            self._tasks.start_soon(self._collect, queue, line)

    async def _collect(self, queue: _Queue, line: _Line) -> None:
        try:
            while line.waiting and self._tasks is not None:
                if len(line.waiting) < queue.most:
                    line.is_full = anyio.Event()
                    with anyio.move_on_after(COLLECT_S):
                        await line.is_full.wait()
                self._set_late_apart(queue)
                if line.waiting and self._pace.is_slowed:
                    # While turns are awaited, more come together.
                    await self._pace.turn(min(wish.deadline for wish in line.waiting.values()))
                    self._set_late_apart(queue)
                self._begin(queue, line.take(queue.most))
        finally:
            line.is_collecting = False
            if queue.is_idle and self._queues.get(queue.place) is queue:
                del self._queues[queue.place]

    def _set_late_apart(self, queue: _Queue) -> None:
        """What should have ended would spoil a batch, and must not be waited for either: it has a line of its own."""
        now = self._clock.now()
        for late in [wish for wish in queue.valid.waiting.values() if wish.deadline <= now]:
            del queue.valid.waiting[late.token.int]
            queue.overdue.put(late)
        self._gather(queue, queue.overdue)

    def _begin(self, queue: _Queue, wishes: Sequence[Wish], *, paced: bool = True) -> None:
        """Ask for these together."""
        if self._tasks is None:
            _fail(wishes, _STOPPING)
        if not wishes or self._tasks is None:
            return
        batch = _Batch(wishes)
        self._batches.add(batch)
        self._tasks.start_soon(self._send, queue, batch, paced)

    async def _send(self, queue: _Queue, batch: _Batch, paced: bool) -> None:
        with batch.scope:
            if not paced:
                await self._pace.turn(min(wish.deadline for wish in batch.wishes))
            _fail([wish for wish in batch.wishes if wish.is_withdrawn], _WITHDRAWN)
            wishes = [wish for wish in batch.wishes if not wish.is_over or wish.is_wanted]
            if wishes:
                await self._ask(queue, wishes)
        self._batches.discard(batch)
        # They refer to it as well, and what is a cycle is left to the collector.
        batch.wishes = ()

    async def _ask(self, queue: _Queue, wishes: Sequence[Wish]) -> None:
        tokens = [wish.token for wish in wishes]
        place = queue.place
        lock_s = min(wish.lock_s for wish in wishes)
        self.requests += 1
        try:
            ask = renew_message_locks(place.entity, tokens, lock_s=lock_s, link_name=place.link_name)
            reply = await place.request(ask)
            expirations = read_expirations(reply, len(wishes))
        except RemoteError as error:
            self._pace.note(error)
            self._refused(queue, wishes, copy_of(error, text=without_tokens(str(error), tokens)))
            return
        except Exception as error:
            # A bug of ours must cost these renewals, not the target with every other lock.
            log.exception("renewals raised an unexpected error", entity=place.entity)
            _fail(wishes, TransientError(f"unexpected {type(error).__name__}", kind="garbage"))
            return
        renewed = Renewed(expirations[0], reply.sent_at, reply.received_at)
        for wish, locked_until in zip(wishes, expirations, strict=True):
            if locked_until != renewed.locked_until:
                renewed = Renewed(locked_until, reply.sent_at, reply.received_at)
            wish.answer = renewed
        _tell(wishes)

    def _refused(self, queue: _Queue, wishes: Sequence[Wish], error: RemoteError) -> None:
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
            size = self._limits[queue.place.entity] = queue.most = max(1, min(queue.most, count) // 4)
        for start in range(0, count, size):
            self._begin(queue, wishes[start : start + size], paced=False)


def without_tokens(text: str, tokens: Collection[UUID]) -> str:
    """The broker's words, in which tokens may be repeated."""
    secret = {form for token in tokens for form in (token.hex, token.bytes_le.hex())}

    def hide(match: re.Match[str]) -> str:
        return "<redacted>" if match[0].replace("-", "").lower() in secret else match[0]

    return _TOKEN.sub(hide, text)


class _Line:
    """What waits to be asked of one place, be it in time or overdue."""

    __slots__ = ("is_collecting", "is_full", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[int, Wish] = {}
        """By the number of its token: a UUID is hashed in Python, each time."""
        self.is_collecting = False
        self.is_full = anyio.Event()

    def put(self, wish: Wish) -> None:
        """Have it wait here."""
        self.waiting[wish.token.int] = wish
        for one in (wish, *wish.twins):
            one.line = self

    def take(self, most: int) -> list[Wish]:
        """The next batch: what ends first goes first."""
        wishes = [*self.waiting.values()]
        if len(wishes) > most:
            wishes = sorted(wishes, key=_deadline_of)[:most]
        for wish in wishes:
            del self.waiting[wish.token.int]
        return wishes

    def left(self, wish: Wish) -> None:
        """One of those who wait for a lock waits no longer."""
        first = self.waiting.get(wish.token.int)
        if first is not None and not first.is_wanted:
            del self.waiting[wish.token.int]


class _Queue:
    """The two lines of one place. `most` is how many locks a request may have."""

    __slots__ = ("most", "overdue", "place", "valid")

    def __init__(self, place: Place, most: int) -> None:
        self.place = place
        self.most = most
        self.valid = _Line()
        self.overdue = _Line()

    def waiting(self, token: UUID) -> Wish | None:
        """The one for this lock that has not been sent yet."""
        number = token.int
        return self.valid.waiting.get(number) or self.overdue.waiting.get(number)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, and nobody looks after it."""
        return not any(line.waiting or line.is_collecting for line in (self.valid, self.overdue))


class _Batch:
    """A request under way, given up when nobody waits for any of its locks."""

    __slots__ = ("scope", "wishes")

    def __init__(self, wishes: Sequence[Wish]) -> None:
        self.wishes = wishes
        self.scope = anyio.CancelScope()
        for wish in wishes:
            wish.batch = self
            for twin in wish.twins:
                twin.batch = self

    def left(self) -> None:
        """One of those who wait for its locks waits no longer."""
        if not any(wish.is_wanted for wish in self.wishes):
            self.scope.cancel()


_deadline_of = attrgetter("deadline")

_STOPPING: Final = TransientError("the target is stopping", kind="network")
_WITHDRAWN: Final = TransientError("the message is being settled", kind="busy", condition="renewer:settling")


def _fail(wishes: Sequence[Wish], error: RemoteError) -> None:
    for wish in wishes:
        wish.answer = copy_of(error)
    _tell(wishes)


def _tell(wishes: Sequence[Wish]) -> None:
    """Let those who wait for these know that they are answered: who waits for several hears of them together."""
    together: dict[Told, list[Wish]] = {}
    for wish in wishes:
        for one in (wish, *wish.twins) if wish.twins else (wish,):
            if not one.is_over:
                one.is_over = True
                if one is not wish:
                    one.answer = copy_of(wish.answer) if isinstance(wish.answer, RemoteError) else wish.answer
                those = together.get(one.told)
                if those is None:
                    together[one.told] = [one]
                else:
                    those.append(one)
    for told, those in together.items():
        try:
            told(those)
        except Exception:
            # A bug of whoever waits for one must not cost the others their answers.
            log.exception("answers for locks were not taken in")
