"""What a scripted fault means for one request to the broker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

from renewer.emulator.broker import refusals
from renewer.emulator.faults import FaultAction

if TYPE_CHECKING:
    from renewer.emulator.broker.refusals import RefusedError
    from renewer.emulator.faults import Fault


@dataclass(frozen=True, slots=True)
class Play:
    """How a request is to go: carried out and answered, unless something here says otherwise."""

    is_ignored: bool = False
    """Neither carried out nor answered."""
    is_silent: bool = False
    """Carried out, not answered."""
    delay_s: float = 0.0
    """Answered so much later."""
    refusal: RefusedError | None = None
    """Answered with this instead of being carried out."""
    breakage: Fault | None = None
    """The link or the connection breaks instead."""


AS_ALWAYS: Final = Play()


def play_for(fault: Fault | None) -> Play:
    """How a request goes that met this fault."""
    if fault is None:
        return AS_ALWAYS
    match fault.action:
        case FaultAction.LOSE_REPLY:
            return Play(is_silent=True)
        case FaultAction.DROP:
            return Play(is_ignored=True)
        case FaultAction.DELAY:
            return Play(delay_s=fault.delay_s or 0.0)
        case FaultAction.BUSY:
            return Play(refusal=_refusal(fault, refusals.server_busy()))
        case FaultAction.UNAUTHORIZED:
            return Play(refusal=_refusal(fault, refusals.unauthorized("Unauthorized access.")))
        case FaultAction.STATUS:
            return Play(refusal=_refusal(fault, refusals.RefusedError("amqp:internal-error", 500, "Scripted.")))
        case FaultAction.DETACH | FaultAction.CLOSE | FaultAction.RESET | FaultAction.GARBAGE:
            return Play(breakage=fault)
        case _:
            assert_never(fault.action)


def _refusal(fault: Fault, default: RefusedError) -> RefusedError:
    return refusals.RefusedError(
        fault.condition or default.condition, fault.status or default.status, fault.message or default.text
    )
