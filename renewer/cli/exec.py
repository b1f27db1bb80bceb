"""`renewer exec`: a session is held while a command runs, and the command is stopped when the lock is in danger."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from enum import StrEnum
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NoReturn

import typer

from renewer.cli.child import Child, Ended, Stopped
from renewer.cli.connect import connected
from renewer.cli.exitcodes import CommandError, ExitCode
from renewer.cli.output import note, printable
from renewer.cli.signals import ENDING, Signals
from renewer.cli.words import span
from renewer.client import LockLost, Timeout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from renewer.cli.call import Call
    from renewer.cli.endpoint import Endpoint
    from renewer.client import Session

_FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGTSTP,
)
_PASSED_ON = (*_FORWARDED, signal.SIGCONT, signal.SIGCHLD)


class OnLost(StrEnum):
    """What becomes of the command when the lock is in danger or lost."""

    TERM = "term"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal came."""

    number: int


@dataclass(frozen=True, slots=True)
class Danger:
    """The lock is lost, or (not `lost`) its time is over without an answer."""

    text: str
    lost: bool


Happening = Signal | Danger


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be held and what is to run meanwhile. Spans in seconds."""

    entity: str
    session_id: str | None
    servicebus: str | None
    labels: Mapping[str, str]
    wait_s: float
    on_lost: OnLost
    grace_s: float
    command: Sequence[str]


def execute(call: Call, plan: Plan) -> NoReturn:
    """Run the command under the lock; ends with its exit code."""
    endpoint = call.endpoint()
    child = Child.fork(plan.command)
    happenings: SimpleQueue[Happening] = SimpleQueue()
    # Other threads must not take this one: it has to stop us at the very moment that we send it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
    with Signals(leave_on=ENDING) as signals:
        try:
            code = _hold_and_run(endpoint, plan, child, happenings, signals)
        finally:
            child.abandon()
    raise typer.Exit(code)


def _hold_and_run(
    endpoint: Endpoint, plan: Plan, child: Child, happenings: SimpleQueue[Happening], signals: Signals
) -> int:
    def at_risk(_: Session, detail: str) -> None:
        happenings.put(Danger(detail or "no renewal was answered in time", lost=False))

    def lost(_: Session, reason: str, detail: str) -> None:
        happenings.put(Danger(f"{reason}: {detail}" if detail else reason, lost=True))

    code: int | None = None
    with connected(endpoint) as client:
        held = client.session(
            plan.entity,
            plan.session_id,
            servicebus=plan.servicebus,
            labels=plan.labels,
            wait=plan.wait_s,
            on_lost=lost,
            on_at_risk=at_risk,
        )
        try:
            with held as session:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
                signals.pass_on(_PASSED_ON, lambda number: happenings.put(Signal(number)))
                child.start({**os.environ, **_environment(endpoint, plan, session)})
                code = _supervise(child, happenings, plan)
        except LockLost as error:
            if code is None:
                raise CommandError(printable(str(error)), ExitCode.UNAVAILABLE) from error
        except Timeout as error:
            if code is None:
                raise CommandError(f"{printable(str(error))}; wait longer with --wait", ExitCode.TRY_AGAIN) from error
    return code if code is not None else ExitCode.OK


def _supervise(child: Child, happenings: SimpleQueue[Happening], plan: Plan) -> int:
    """See the command to its end; returns its exit code, or that it was stopped for the lock's sake."""
    kill_at: float | None = None
    stopping = False
    while True:
        try:
            happening = happenings.get(timeout=None if kill_at is None else max(0.0, kill_at - time.monotonic()))
        except Empty:
            note(f"{printable(plan.command[0])} did not end in {span(plan.grace_s)}: killed")
            child.send(signal.SIGKILL)
            kill_at = None
            continue
        match happening:
            case Signal(signal.SIGCHLD):
                for change in child.changes():
                    match change:
                        case Stopped(number):
                            child.follow_stop(number)
                        case Ended(code):
                            if stopping:
                                child.end_group(kill_at if kill_at is not None else 0.0)
                                return ExitCode.LOCK_LOST
                            return code
            case Signal(signal.SIGCONT):
                child.resume()
            case Signal(number):
                child.send(number)
            case Danger(text, lost):
                what = "the lock is lost" if lost else "the lock may be lost"
                if plan.on_lost is OnLost.WARN:
                    note(f"{what} ({printable(text)}); the command goes on")
                elif not stopping:
                    note(f"{what} ({printable(text)}): stopping {printable(plan.command[0])}")
                    stopping = True
                    kill_at = time.monotonic() + plan.grace_s
                    child.send(signal.SIGTERM)
                    # Who is stopped cannot end.
                    child.send(signal.SIGCONT)


def _environment(endpoint: Endpoint, plan: Plan, session: Session) -> dict[str, str]:
    until = session.locked_until_utc
    return {
        "RENEWER_API": endpoint.url,
        "RENEWER_LEASE": session.lease.id,
        "RENEWER_ENTITY": plan.entity,
        "RENEWER_SESSION_ID": session.session_id or "",
        "RENEWER_EPOCH": str(session.epoch),
        "RENEWER_LOCKED_UNTIL_UTC": until.isoformat() if until is not None else "",
    }
