"""Scripted faults: what shall go wrong, where, and how often; and the emulator's own idea of the time.

Both halves of the emulator ask `Faults.pick` at every point where a real service can misbehave. Nothing here
is random: rules count, so that a run can be repeated. What an action means at a point is the business of the
half that plays it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, NewType

from renewer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FaultId = NewType("FaultId", str)

MatchValue = str | int | bool
"""What a rule compares an attribute with: by its text (`7`, `true`), a string also as a pattern (`*`)."""

MAX_FAULTS = 1000
MAX_DELAY_S = 3600.0
MAX_RETRY_AFTER_S = 10**12
MAX_CLOCK_OFFSET_S = 10 * 365 * 86400.0


class FaultAction(StrEnum):
    """What goes wrong."""

    LOSE_REPLY = "lose_reply"
    """The request is carried out and never answered."""
    DROP = "drop"
    """The request is neither carried out nor answered."""
    DELAY = "delay"
    """The request is carried out and answered `delay_s` late."""
    BUSY = "busy"
    """Refused for now: server-busy, or 429 with Retry-After."""
    UNAUTHORIZED = "unauthorized"
    """Refused as if the token were no longer good."""
    STATUS = "status"
    """Answered with `status` and `condition`."""
    DETACH = "detach"
    """The link is detached, with `condition`."""
    CLOSE = "close"
    """The connection is closed in good form, with `condition`."""
    RESET = "reset"
    """The TCP connection is cut, without a word."""
    GARBAGE = "garbage"
    """Bytes that are not the protocol."""


_AMQP_ACTIONS = frozenset(FaultAction)
_HTTP_ACTIONS = _AMQP_ACTIONS - {FaultAction.DETACH, FaultAction.CLOSE}

POINTS: Mapping[str, frozenset[FaultAction]] = MappingProxyType(
    {
        "fabric.submit": _HTTP_ACTIONS,
        "fabric.poll": _HTTP_ACTIONS,
        "fabric.result": _HTTP_ACTIONS,
        "fabric.cancel": _HTTP_ACTIONS,
        "servicebus.connect": _AMQP_ACTIONS,
        "servicebus.cbs": _AMQP_ACTIONS,
        "servicebus.attach": _AMQP_ACTIONS,
        "servicebus.management": _AMQP_ACTIONS,
        "servicebus.rest": _HTTP_ACTIONS - {FaultAction.GARBAGE},
        "servicebus.transfer": _AMQP_ACTIONS,
        "servicebus.disposition": _AMQP_ACTIONS,
    }
)
"""Every point where a fault can be placed, and the actions that make sense there."""


class ScriptError(UsageError):
    """A fault or a scenario that cannot be played: which field is wrong, and what would be right."""

    def __init__(self, field_name: str, remedy: str) -> None:
        super().__init__(f"{field_name}: {remedy}")
        self.field = field_name
        self.remedy = remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One rule: at `on`, of the requests that match, every `every`-th meets `action`, at most `times` times.

    Raises `ScriptError` when its fields do not make sense together.
    """

    on: str
    """A point, or a pattern of points (`fabric.*`)."""
    action: FaultAction
    match: Mapping[str, MatchValue] = field(default_factory=dict)
    """Attributes that a request must have; all of them. An attribute that a request lacks never matches."""
    times: int | None = None
    """How often it fires before it is spent; None: for ever."""
    every: int = 1
    """It fires on the n-th, 2n-th, 3n-th … matching request."""
    delay_s: float | None = None
    """Seconds of delay, for `delay`."""
    status: int | None = None
    """HTTP or management status of the answer, for `status`."""
    retry_after: int | str | None = None
    """Retry-After as it is sent: seconds, or any text (a date, or nonsense)."""
    condition: str | None = None
    """The service's own word for the error: an AMQP condition, a Fabric errorCode."""
    message: str | None = None
    """Text for people, beside the condition."""

    def __post_init__(self) -> None:
        actions = [POINTS[point] for point in POINTS if fnmatchcase(point, self.on)]
        if not actions:
            raise ScriptError("on", f"no such point; known are {', '.join(POINTS)}, or a pattern such as fabric.*")
        if not any(self.action in known for known in actions):
            raise ScriptError("action", f"{self.action} cannot happen at {self.on}")
        for name, number in (("times", self.times), ("every", self.every)):
            if number is not None and number < 1:
                raise ScriptError(name, "must be 1 or more")
        if self.delay_s is not None and not 0 <= self.delay_s <= MAX_DELAY_S:
            raise ScriptError("delay_s", f"must be between 0 and {MAX_DELAY_S:g} seconds")
        if self.status is not None and not 200 <= self.status <= 599:
            raise ScriptError("status", "must be a status between 200 and 599")
        if isinstance(self.retry_after, int) and not 0 <= self.retry_after <= MAX_RETRY_AFTER_S:
            raise ScriptError("retry_after", f"must be 0 to {MAX_RETRY_AFTER_S} seconds, or the header's text")
        if isinstance(self.retry_after, str):
            check_header_text("retry_after", self.retry_after)
        if self.condition is not None:
            check_header_text("condition", self.condition)
        if self.action is FaultAction.DELAY and self.delay_s is None:
            raise ScriptError("delay_s", "a delay needs the number of seconds")
        if self.action is FaultAction.STATUS and self.status is None:
            raise ScriptError("status", "a status fault needs the status to answer with")

    def applies_to(self, point: str, attributes: Mapping[str, object]) -> bool:
        """Whether a request with these attributes at this point is one that the rule speaks of."""
        return (
            fnmatchcase(point, self.on)
            and self.action in POINTS[point]
            and all(_same(wanted, attributes.get(name)) for name, wanted in self.match.items())
        )


@dataclass(slots=True)
class FaultState:
    """A rule in the registry and what it has done so far."""

    id: FaultId
    fault: Fault
    seen: int = 0
    """Matching requests that it was asked about."""
    fired: int = 0

    @property
    def spent(self) -> bool:
        """Whether it has fired as often as it may."""
        return self.fault.times is not None and self.fired >= self.fault.times


class Faults:
    """The rules in force, asked in the order in which they were added, and the server's clock.

    A request that one rule has taken is not counted by the rules after it: of two rules of one in fifty, both
    get their share.
    """

    def __init__(self, utc_now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._utc_now = utc_now
        self._states: dict[FaultId, FaultState] = {}
        self._next_id = 1
        self._clock_offset_s = 0.0
        self.seen: Counter[str] = Counter()
        """Requests seen at each point, whether or not something went wrong."""

    @property
    def clock_offset_s(self) -> float:
        """Seconds by which this server's UTC clock is ahead of the true one (negative: behind)."""
        return self._clock_offset_s

    @clock_offset_s.setter
    def clock_offset_s(self, offset_s: float) -> None:
        if not (math.isfinite(offset_s) and abs(offset_s) <= MAX_CLOCK_OFFSET_S):
            raise ScriptError("offset_s", f"must be a number of seconds of at most ±{MAX_CLOCK_OFFSET_S:.0f}")
        self._clock_offset_s = float(offset_s)

    def utc_now(self) -> datetime:
        """The time as this server believes it to be."""
        return self._utc_now() + timedelta(seconds=self._clock_offset_s)

    def add(self, fault: Fault) -> FaultId:
        """Put a rule in force, after those that are there. Raises `ScriptError` when there are too many."""
        if len(self._states) >= MAX_FAULTS:
            self._states = {key: state for key, state in self._states.items() if not state.spent}
        if len(self._states) >= MAX_FAULTS:
            raise ScriptError("faults", f"{MAX_FAULTS} are in force already; remove some first")
        fault_id = FaultId(f"fault-{self._next_id}")
        self._next_id += 1
        self._states[fault_id] = FaultState(fault_id, fault)
        return fault_id

    def remove(self, fault_id: str) -> bool:
        """Take a rule back; False when there is none of that id."""
        return self._states.pop(FaultId(fault_id), None) is not None

    def clear(self) -> None:
        """Take every rule back. The clock keeps its offset."""
        self._states.clear()

    def list(self) -> list[FaultState]:
        """Every rule with its counts, spent ones included, oldest first."""
        return [*self._states.values()]

    def pick(self, point: str, **attributes: object) -> Fault | None:
        """Count a request at `point` and say what shall go wrong with it, if anything."""
        self.seen[point] += 1
        for state in self._states.values():
            if state.spent or not state.fault.applies_to(point, attributes):
                continue
            state.seen += 1
            if state.seen % state.fault.every == 0:
                state.fired += 1
                return state.fault
        return None


def check_header_text(field_name: str, text: str) -> None:
    """Raise `ScriptError` unless `text` can be sent as the value of an HTTP header (RFC 9110 5.5)."""
    if len(text) > 1000 or not text.isascii() or not text.isprintable() or text != text.strip():
        raise ScriptError(field_name, "must be printable ASCII of at most 1000 characters, without spaces around it")


def _same(wanted: MatchValue, actual: object) -> bool:
    if actual is None:
        return False
    wanted_text, actual_text = _text(wanted), _text(actual)
    return wanted_text == actual_text or fnmatchcase(actual_text, wanted_text)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
