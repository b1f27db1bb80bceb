"""What the broker lets us have no more of: learned from its refusals, and tried again gently.

Who is refused because there are too many (of connections, of sessions of an entity, of links in an AMQP session) would
be refused again if it asked on, lease by lease. So what we have then is taken to be the most. After a pause one more is
tried, and when that is granted two more, then four: a limit that was raised is found in little time, and one that was
not costs one request for each pause.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from renewer.errors import RemoteError, TransientError

if TYPE_CHECKING:
    from renewer.ports import Clock

FIRST_PAUSE_S: Final = 10.0
LONGEST_PAUSE_S: Final = 60.0

OUR_LIMIT: Final = "renewer:limit"
"""The condition of refusals that are our own, so that nobody takes them for the broker's."""

_TOO_MANY: Final = frozenset({"amqp:resource-limit-exceeded", "com.microsoft:quota-exceeded"})


def is_too_many(error: RemoteError | None) -> bool:
    """Whether the broker refused because we, or all of its clients together, have as many as it allows."""
    return error is not None and error.condition in _TOO_MANY


class Ceiling:
    """How many of one thing may be had. `most` is our own limit; None for none."""

    def __init__(self, clock: Clock, most: int | None = None) -> None:
        self.most = most
        self._clock = clock
        self._learned: int | None = None
        self._why = ""
        self._try_at = 0.0
        self._pause_s = 0.0
        self._step = 1

    @property
    def is_lowered(self) -> bool:
        """Whether the broker allows less than we would have; forgotten when nobody has asked for more in a while."""
        if self._learned is not None and self._clock.now() >= self._try_at + _FORGET_S:
            self._lift()
        return self._learned is not None

    @property
    def why(self) -> str:
        """The broker's own words, where it has lowered the ceiling."""
        return self._why

    def value(self) -> float:
        """How many may be had now, those that are being tried counted."""
        most = math.inf if self.most is None else self.most
        if self._learned is None or not self.is_lowered:
            return most
        return min(most, self._learned + (self._step if self._clock.now() >= self._try_at else 0))

    def pause_s(self) -> float:
        """How long until more are tried than there are."""
        return max(0.0, self._try_at - self._clock.now()) if self.is_lowered else 0.0

    def refused(self, have: int, why: str) -> None:
        """One more than `have` was refused. Of several that were tried at once, each says so."""
        now = self._clock.now()
        if self._learned is None or now >= self._try_at:
            self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
            self._try_at = now + self._pause_s
        self._learned = have
        self._why = why
        self._step = 1

    def granted(self, have: int) -> None:
        """There are so many now."""
        if self._learned is None or have <= self._learned:
            return
        self._learned = have
        self._pause_s = 0.0
        self._step *= 2
        if self._step > _LIFTED or (self.most is not None and have >= self.most):
            self._lift()

    def must_hold(self, have: int) -> None:
        """There are so many: some may have been granted that were on their way when another one was refused."""
        if self._learned is not None:
            self._learned = max(self._learned, have)

    def check(self, have: int, what: str) -> None:
        """Raise `TransientError`, saying when to come back, if no more than `have` may be had now."""
        if have >= self.value() and self._learned is not None:
            raise TransientError(
                f"the broker allows no more than {self._learned} {what} now: {self._why}",
                kind="busy",
                condition=OUR_LIMIT,
                retry_after_s=self.pause_s(),
            )

    def _lift(self) -> None:
        self._learned, self._step, self._pause_s, self._why = None, 1, 0.0, ""


_FORGET_S: Final = 300.0

_LIFTED: Final = 64
"""So many more at once were granted that there is no telling of a ceiling any longer."""
