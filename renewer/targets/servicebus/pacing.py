"""How fast requests go to one namespace: as they come, until the broker says that it is too busy.

Service Bus gives each namespace so many operations a second and refuses the rest with "server-busy" (50009), asking
for a pause of ten seconds ("Throttling operations on Azure Service Bus"). What is refused counts as well, so that
asking on and on, lock by lock, keeps everybody out. The rules:

* Once one request was refused, all of the namespace wait for their turns, until none was refused for ten seconds.
* What must be done before a lock ends has its turn in the order of those ends, and as slowly as can be: so that each
  comes in the first half of what remains of its lock. A refusal then leaves time for another try. Locks that should
  have ended go last: those that can still be kept are worth more than to know that others are lost.
* New sessions are not asked for meanwhile. They are told when to come back, each at another time.
"""

from __future__ import annotations

import heapq
import itertools
import math
import re
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio
import structlog

from renewer.errors import RemoteError, TransientError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from anyio.abc import TaskStatus

    from renewer.ports import Clock

PAUSE_S: Final = 10.0
"""How long Service Bus wants to be left alone by those who can wait."""

LONGEST_PAUSE_S: Final = 60.0
"""How long a broker can make them wait, whatever number it sends."""

SLOWEST_PER_S: Final = 4.0
"""Turns a second at the least: some must ask, or nobody would learn that the broker has time again."""

NEWCOMERS_PER_S: Final = 20.0

OVERDUE_S: Final = 2.0
"""In what time those have their turns whose locks should have ended."""

_BUSY: Final = "com.microsoft:server-busy"
_BUSY_CODE: Final = re.compile(r"(?:subcode|error code) ?[=:] ?50009\b", re.IGNORECASE)
_OURS: Final = "renewer:paced"
_SHARE: Final = 0.5
_LOOK_S: Final = 0.05
_FASTEST_PER_S: Final = 1e6

log = structlog.get_logger("renewer.servicebus")


class Pace:
    """The turns of one namespace. `serve` it; without that nobody gets one while the broker is busy."""

    def __init__(self, clock: Clock, name: str) -> None:
        self.refusals = 0
        """How often the broker said that it is too busy."""
        self._clock = clock
        self._name = name
        self._calm_at = 0.0
        self._needed = SLOWEST_PER_S
        self._reckoned_at = 0.0
        self._turned_at = 0.0
        self._newcomers = 0
        self._numbers = itertools.count()
        self._waiting: list[_Waiter] = []
        self._overdue: deque[_Waiter] = deque()
        self._keys: set[Hashable] = set()
        self._work = anyio.Event()

    @property
    def is_slowed(self) -> bool:
        """Whether requests wait for their turns."""
        return self._clock.now() < self._calm_at

    def note(self, error: RemoteError) -> None:
        """Take in why a request failed."""
        if not is_throttled(error):
            return
        now = self._clock.now()
        if now >= self._calm_at:
            self._newcomers = 0
            log.warning("throttled", target=self._name, detail=str(error))
        self.refusals += 1
        asked_s = error.retry_after_s if isinstance(error, TransientError) else None
        self._calm_at = now + min(max(PAUSE_S, asked_s or 0.0), LONGEST_PAUSE_S)

    def admit_newcomer(self) -> None:
        """Raise `TransientError`, saying when to come back, to whoever wants a new session while the broker is busy."""
        now = self._clock.now()
        if now >= self._calm_at:
            return
        self._newcomers += 1
        wait_s = self._calm_at - now + self._newcomers / NEWCOMERS_PER_S
        raise TransientError(
            f"{self._name} is throttled: new sessions wait until it answers again",
            kind="busy",
            retry_after_s=wait_s,
            condition=_OURS,
        )

    async def turn(self, deadline: float, key: Hashable = None) -> None:
        """Return when it is time to send what must be done before `deadline` (monotonic); as a rule at once.

        `TransientError` if something of the same key waits already.
        """
        if not self.is_slowed:
            return
        if key is not None and key in self._keys:
            raise TransientError(
                f"{self._name} is throttled: a request waits for its turn already", kind="busy", condition=_OURS
            )
        now = self._clock.now()
        waiter = _Waiter(deadline, now + _SHARE * max(0.0, deadline - now), next(self._numbers))
        heapq.heappush(self._waiting, waiter)
        if key is not None:
            self._keys.add(key)
        self._work.set()
        try:
            await waiter.come.wait()
        finally:
            waiter.is_gone = True
            self._keys.discard(key)

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Give out turns, until cancelled."""
        task_status.started()
        while True:
            if not self._waiting and not self._overdue:
                self._work = anyio.Event()
                await self._work.wait()
                self._reckoned_at = -math.inf
                # Nobody has saved up turns while nobody waited.
                now = self._clock.now()
                self._turned_at = max(self._turned_at, now - 1.0 / self._per_s(now))
            now = self._clock.now()
            while self._waiting and self._waiting[0].deadline <= now:
                late = heapq.heappop(self._waiting)
                late.target = now + OVERDUE_S
                self._overdue.append(late)
            everybody = len(self._waiting) + len(self._overdue)
            per_s = self._per_s(now)
            due = int((now - self._turned_at) * per_s) if self.is_slowed else everybody
            if due:
                self._turned_at += due / per_s
                self._give(due)
            else:
                await anyio.sleep(min(_LOOK_S, 1.0 / per_s))

    def _give(self, turns: int) -> None:
        while turns > 0 and (self._waiting or self._overdue):
            waiter = heapq.heappop(self._waiting) if self._waiting else self._overdue.popleft()
            if not waiter.is_gone:
                waiter.come.set()
                turns -= 1

    def _per_s(self, now: float) -> float:
        """How many turns a second it takes that everybody's comes when it should at the latest."""
        if now - self._reckoned_at >= _LOOK_S:
            self._reckoned_at = now
            targets = [waiter.target for waiter in (*sorted(self._waiting), *self._overdue) if not waiter.is_gone]
            needs = (count / max(target - now, _LOOK_S) for count, target in enumerate(targets, start=1))
            self._needed = max(needs, default=SLOWEST_PER_S)
        return min(max(self._needed, SLOWEST_PER_S), _FASTEST_PER_S)


def is_throttled(error: RemoteError) -> bool:
    """Whether the broker refused a request because there are too many, of whatever kind."""
    if error.condition is None:
        return isinstance(error, TransientError) and error.kind in ("busy", "throttled")
    return error.condition == _BUSY or _BUSY_CODE.search(str(error)) is not None


class _Waiter:
    __slots__ = ("come", "deadline", "is_gone", "number", "target")

    def __init__(self, deadline: float, target: float, number: int) -> None:
        self.deadline = deadline
        self.target = target
        self.number = number
        self.come = anyio.Event()
        self.is_gone = False

    def __lt__(self, other: _Waiter) -> bool:
        return (self.target, self.number) < (other.target, other.number)
