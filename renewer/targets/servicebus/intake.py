"""What comes in over the link of one session: credit for those who wait, and messages given out in turn.

1. Nothing is asked for ahead. Credit is given for calls that wait, and taken back when none does.
2. A call waits for its first message. Then it takes what else is there: the link is drained, by which the broker sends
   that at once and says that it was all (AMQP 1.0 part 2.6.7). So no call waits for a second message.
3. Calls that wait at the same time get messages in turn.
4. A message that comes when nobody waits any longer is kept for the next call, in the order of arrival. It is locked
   with its session, which we hold; to give it back would only change the order.
5. A call always has credit for one message. More it has as far as there is room, counted at the largest size that a
   message has, in what all sessions of a connection share.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from renewer.amqp import Delivery
    from renewer.targets.servicebus.sharing import Sharing

MAX_CALL_BYTES: Final = 8 * 1024 * 1024
"""A call that has so much is done, however many messages it asked for."""

DRAIN_PATIENCE_S: Final = 1.0
"""How long a call waits for what is there, once it has something or its time is over."""

_SHORT_PATIENCE_S: Final = 0.1
"""The same where the broker was asked before and never said that it was all."""


class Tap(Protocol):
    """Where credit is given."""

    @property
    def credit(self) -> int:
        """How many messages may still come."""
        ...

    def flow(self, credit: int, *, drain: bool = False) -> None:
        """Let so many come from now; with `drain` at once or not at all."""
        ...

    def tell_together(self, tell: Callable[[], None]) -> None:
        """Have that called once all is told that came in with what is being told now."""
        ...


class Arrival(NamedTuple):
    """A message that came in, and its place among the others."""

    number: int
    delivery: Delivery
    size: int


class Intake:
    """The messages of one session, on their way from its link to those who ask for them.

    `largest` is the size, in bytes, that a message may be expected to have at most.
    """

    def __init__(self, tap: Tap, sharing: Sharing, *, largest: int) -> None:
        self._tap = tap
        self._sharing = sharing
        self._largest = largest
        self._numbers = 0
        self._reserved = 0
        self._kept: list[Arrival] = []
        self._calls: dict[_Call, None] = {}
        self._is_draining = False
        self._is_owed = False  # The answer to a drain that was called off.
        self._is_deaf = False
        self._is_behind = False  # More came than we were told by now.
        self._error: Callable[[], Exception] | None = None

    async def take(self, count: int, wait_s: float) -> list[Arrival]:
        """At most `count` messages; none if none came in time. What `end` was told is raised as soon as it is told.

        They are counted as being here until `done_with`. If this is cancelled, they stay for the next call.
        """
        self._check()
        call = _Call(count)
        self._calls[call] = None
        try:
            while self._kept and not call.is_over:
                call.add(heapq.heappop(self._kept))
            if not call.got:
                if wait_s > 0:
                    self._adjust()
                    with anyio.move_on_after(wait_s):
                        await call.changed.wait()
                await self._take_what_is_there(call)
            self._check()
            got, call.got = call.got, []
            return got
        finally:
            del self._calls[call]
            self.put_back(call.got)

    def put_back(self, arrivals: Iterable[Arrival]) -> None:
        """Whoever took these could not use them: they are for the next call."""
        if self._error is None:
            for arrival in arrivals:
                heapq.heappush(self._kept, arrival)
            self._serve()
            self._adjust()
        else:
            self.done_with(arrivals)

    def done_with(self, arrivals: Iterable[Arrival]) -> None:
        """The payloads of these are not here any longer."""
        for arrival in arrivals:
            self._sharing.use(-arrival.size)

    def end(self, error: Callable[[], Exception]) -> None:
        """The link is gone: forget everything, and raise `error()` for all who wait or will ask."""
        if self._error is None:
            self._error = error
            self.done_with(self._kept)
            self._kept.clear()
            self._reserve(0)
            for call in self._calls:
                call.finish()

    # Events of the link ---------------------------------------------------------------------------------------------

    def on_arrival(self, delivery: Delivery) -> None:
        """A message came."""
        if self._error is not None:
            return
        self._numbers += 1
        arrival = Arrival(self._numbers, delivery, len(delivery.payload))
        self._sharing.use(arrival.size)
        heapq.heappush(self._kept, arrival)
        self._serve()
        if not self._is_behind:
            # The link has counted all that came with this one, and we have not seen it yet: credit in its place would
            # be for messages that nobody waits for.
            self._is_behind = True
            self._tap.tell_together(self._caught_up)

    def on_drained(self) -> None:
        """The broker has no more for now, and gave back what credit was left."""
        if self._is_draining:
            for call in self._calls:
                if call.is_eager:
                    call.finish()
        elif not self._is_owed:
            return
        self._is_draining = self._is_owed = self._is_deaf = False
        self._adjust()

    def drop(self, delivery: Delivery) -> None:
        """The broker took a message back that nobody has taken."""
        gone = [arrival for arrival in self._kept if arrival.delivery is delivery]
        if gone:
            self._kept = [arrival for arrival in self._kept if arrival.delivery is not delivery]
            heapq.heapify(self._kept)
            self.done_with(gone)

    # ----------------------------------------------------------------------------------------------------------------

    def _caught_up(self) -> None:
        """All that came together is here."""
        self._is_behind = False
        if self._is_draining and not self._tap.credit:
            # All credit was used: there may be more, and those who want more ask anew.
            self._is_draining = False
        self._adjust(top_up_at=0.5)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error()

    async def _take_what_is_there(self, call: _Call) -> None:
        call.is_eager = True
        self._adjust()
        with anyio.move_on_after(_SHORT_PATIENCE_S if self._is_deaf else DRAIN_PATIENCE_S) as scope:
            await call.over.wait()
        if scope.cancelled_caught and self._is_draining:
            self._is_deaf = True

    def _serve(self) -> None:
        """Give out what is here to who waits for it: the one that has least comes first."""
        while self._kept:
            call = min((c for c in self._calls if not c.is_over), key=lambda c: len(c.got), default=None)
            if call is None:
                return
            call.add(heapq.heappop(self._kept))

    def _adjust(self, *, top_up_at: float = 1.0) -> None:
        """Have as much credit out as is wanted and there is room for, once no more than that part of it is left."""
        if self._error is not None:
            return
        calls = [call for call in self._calls if not call.is_over]
        is_eager = any(call.is_eager for call in calls)
        if self._is_draining and is_eager:
            return  # One after the other.
        wanted = sum(call.missing for call in calls)
        credit = self._tap.credit
        allowed = self._reserve(wanted)
        if is_eager:
            self._is_draining = True
            self._tap.flow(allowed, drain=True)
        elif self._is_draining or credit > wanted or (credit < allowed and credit <= allowed * top_up_at):
            # Also where those who had the link drained have gone meanwhile. What the broker gives back for them may be
            # of this credit, by its count: then it is given anew.
            self._is_owed = self._is_owed or self._is_draining
            self._is_draining = False
            self._tap.flow(allowed)

    def _reserve(self, wanted: int) -> int:
        """Room for so many messages, or as many as there is room for. One needs none."""
        self._sharing.use(-self._reserved)
        more = max(0, min(wanted - 1, self._sharing.room // self._largest))
        self._reserved = more * self._largest
        self._sharing.use(self._reserved)
        return min(wanted, more + 1)


class _Call:
    """Somebody who waits for messages."""

    __slots__ = ("changed", "got", "is_eager", "missing", "over", "size")

    def __init__(self, count: int) -> None:
        self.missing = count
        self.got: list[Arrival] = []
        self.size = 0
        self.is_eager = False
        self.changed = anyio.Event()
        self.over = anyio.Event()

    @property
    def is_over(self) -> bool:
        return self.over.is_set()

    def add(self, arrival: Arrival) -> None:
        self.got.append(arrival)
        self.size += arrival.size
        self.missing -= 1
        self.changed.set()
        if not self.missing or self.size >= MAX_CALL_BYTES:
            self.over.set()

    def finish(self) -> None:
        self.changed.set()
        self.over.set()
