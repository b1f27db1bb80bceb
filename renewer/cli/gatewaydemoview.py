"""What is known of the two workers of `renewer demo --gateway`, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from renewer.cli.demoview import table

_LOST = "SessionLockLostError"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one worker: `completed`, the name of the SDK's error, or `unfinished`. Spans in seconds."""

    outcome: str
    blocked_s: float | None
    lock_lost_after_s: float | None
    renewals: int
    min_margin_s: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What the demo saw, in the words of its JSON output."""

    lock_s: float
    block_s: float
    gateway: Outcome
    direct: Outcome
    as_told: bool


@dataclass(slots=True)
class Worker:
    """One worker. Moments are monotonic."""

    name: str
    session_id: str
    connection_string: str = field(default="", repr=False)
    state: str = "starting"
    error: str | None = None
    message: str = ""
    has_ended: bool = False
    working_since: float | None = None
    worked_until: float | None = None
    lock_left_s: float | None = None
    """How long the broker will let it have the session, None if it does not have it."""
    lost_at: float | None = None
    renewals: int = 0
    min_margin_s: float | None = None

    def told(self, document: Mapping[str, Any], now: float) -> None:
        """The worker says what it does."""
        self.state = str(document["event"])
        match self.state:
            case "working":
                self.working_since = now
            case "completing":
                self.worked_until = now
            case "failed":
                self.error, self.message = str(document["error"]), str(document["message"])

    def held_at(self, now: float) -> None:
        """Note when the broker took the session away."""
        if self.state == "working" and self.lock_left_s is None and self.lost_at is None:
            self.lost_at = now

    def ended(self, now: float, code: int | None) -> None:
        """The worker's process is gone."""
        self.has_ended = True
        if self.working_since is not None and self.worked_until is None:
            self.worked_until = now
        if self.state not in {"completed", "failed"}:
            self.state, self.error = "failed", f"ended with code {code}"

    @property
    def outcome(self) -> str:
        """What became of it, in one word."""
        if self.state == "completed":
            return "completed"
        return self.error if self.error is not None else "unfinished"

    def summary(self) -> Outcome:
        """What became of it."""
        began, lost = self.working_since, self.lost_at
        return Outcome(
            outcome=self.outcome,
            blocked_s=None if began is None or self.worked_until is None else round(self.worked_until - began, 1),
            lock_lost_after_s=None if began is None or lost is None else round(lost - began, 1),
            renewals=self.renewals,
            min_margin_s=self.min_margin_s,
        )


@dataclass(slots=True)
class Contest:
    """Both workers, and what is asked of them. `now` is when they were last looked at."""

    lock_s: float
    block_s: float
    gateway: Worker
    direct: Worker
    now: float = 0.0

    @property
    def is_as_told(self) -> bool:
        """Whether the lock was kept through the gateway and lost without it."""
        return self.gateway.outcome == "completed" and self.direct.outcome == _LOST

    def summary(self) -> Summary:
        """Everything, for the JSON output."""
        return Summary(self.lock_s, self.block_s, self.gateway.summary(), self.direct.summary(), self.is_as_told)

    def verdict(self) -> str:
        """What came of it, in a sentence or two."""
        if self.is_as_told:
            return (
                f"Both workers blocked their event loop for {self.block_s:g} s and held a lock of {self.lock_s:g} s. "
                f"Through the gateway the message was completed, after {self.gateway.renewals} renewals; without it "
                "the session was lost, and the message will be processed twice."
            )
        return (
            f"Not as it should be. Through the gateway: {self.gateway.outcome} instead of completed; on its own: "
            f"{self.direct.outcome} instead of {_LOST}."
        )


def show(contest: Contest) -> RenderableType:
    """The whole screen; it fits into 80 columns and 24 lines."""
    shown = table(
        f"One worker, run twice: its event loop blocked for {contest.block_s:g} s, its lock {contest.lock_s:g} s long",
        "azure-servicebus",
        "what it does",
        "lock at the broker",
    )
    shown.add_column("renewed", justify="right")
    # Wide enough from the beginning, so that the table does not move under one's eyes.
    for column, width in zip(shown.columns, (19, 25, 18, 7), strict=True):
        column.min_width = width
    for worker in (contest.gateway, contest.direct):
        shown.add_row(worker.name, _doing(worker, contest), _lock(worker, contest.now), str(worker.renewals or ""))
    is_over = contest.gateway.has_ended and contest.direct.has_ended
    if not is_over:
        return Group(shown, Text("\nNothing differs but the connection string. Ctrl-C stops it.", style="dim"))
    style = "green" if contest.is_as_told else "bold red"
    return Group(shown, Text(f"\n{contest.verdict()}", style=style))


def _doing(worker: Worker, contest: Contest) -> Text:
    match worker.state:
        case "working" if worker.working_since is not None:
            return Text(f"blocked for {contest.now - worker.working_since:.0f} s", style="yellow")
        case "completed":
            return Text("completed", style="green")
        case "failed":
            return Text(worker.error or "failed", style="bold red")
        case state:
            return Text(state)


def _lock(worker: Worker, now: float) -> Text:
    if worker.lost_at is not None:
        return Text(f"lost {now - worker.lost_at:.0f} s ago", style="bold red")
    if worker.lock_left_s is not None:
        return Text(f"{worker.lock_left_s:.1f} s left", style="green")
    return Text("given back" if worker.has_ended else "")
