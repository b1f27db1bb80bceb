"""Work for a lease, from when the core asks for it until it is over, unless a task has taken it on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from renewer.core.effects import StartAcquire, StartRelease, StartRenew
    from renewer.daemon.lanes import Places
    from renewer.ports import PendingRenewal


class PendingAttempt:
    """What is to be done (`WantedRenewal` if that is to renew), and how far that is.

    `due_at` is when it fell due, `ends_at` when its time ends, `patience_s` how long the core waits for it. It waits in
    its lane until it has a place, one of `places`; then `renewal` says that it was begun without a task.
    """

    __slots__ = (
        "due_at",
        "effect",
        "ends_at",
        "epoch",
        "is_answered",
        "is_wanted",
        "patience_s",
        "places",
        "renewal",
        "spec",
    )

    def __init__(
        self,
        effect: StartRenew | StartAcquire | StartRelease,
        due_at: float,
        ends_at: float,
        patience_s: float = math.inf,
    ) -> None:
        self.effect = effect
        self.spec = effect.spec
        self.epoch = effect.epoch
        self.due_at = due_at
        self.ends_at = ends_at
        self.patience_s = patience_s
        self.places: Places | None = None
        self.renewal: PendingRenewal | None = None
        self.is_wanted = True
        self.is_answered = False

    @property
    def started_at(self) -> float:
        """When it was begun: when it found its place."""
        return self.due_at if self.places is None else self.places.taken_at

    def answered(self) -> PendingRenewal:
        """What was begun is answered, and is given away: it may refer to us, and a cycle is left to the collector."""
        renewal, self.renewal = self.renewal, None
        assert renewal is not None  # noqa: S101 - it is set before it is answered
        self.is_answered = True
        return renewal

    def cancel(self) -> None:
        """Nobody wants it any longer. Its place, if it has one, is still to be given back."""
        self.is_wanted = False
        renewal, self.renewal = self.renewal, None
        if renewal is not None:
            renewal.cancel()
