"""A renewal or an acquisition that has no task, while it is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.core.effects import StartAcquire, StartRenew
    from renewer.daemon.lanes import Lane
    from renewer.ports import PendingRenewal


class PendingAttempt:
    """What is to be known when its answer comes: what was asked for, when, and from which place in which lane."""

    __slots__ = ("_take_in", "effect", "is_answered", "lane", "number", "renewed", "started_at")

    def __init__(
        self,
        effect: StartRenew | StartAcquire,
        lane: Lane,
        number: int,
        started_at: float,
        take_in: Callable[[PendingAttempt, PendingRenewal], None],
    ) -> None:
        self.effect = effect
        self.lane = lane
        self.number = number
        self.started_at = started_at
        self.renewed: PendingRenewal | None = None
        self.is_answered = False
        self._take_in = take_in

    def answered(self, renewed: PendingRenewal) -> None:
        """For the target to call."""
        self.renewed = None  # It refers to us, and a cycle is left to the garbage collector.
        self.is_answered = True
        self._take_in(self, renewed)

    def cancel(self) -> None:
        """Stop waiting for the answer."""
        if self.renewed is not None:
            self.renewed.cancel()
            self.renewed = None
