"""How one scripted operation behaves, from the first answer to its end; and the stories that have a name."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from renewer.emulator.faults import MAX_RETRY_AFTER_S, ScriptError, check_header_text

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_POLLS = 1_000_000
MAX_SPAN_S = 365 * 86400.0

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?\Z|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?\Z")


class Ending(StrEnum):
    """How an operation that was accepted ends."""

    SUCCEEDED = "succeeded"
    """`Succeeded`; for a job instance `Completed`."""
    FAILED = "failed"
    """`Failed`, with the scenario's error."""
    CANCELLED = "cancelled"
    """`Cancelled`: a word that only job instances have."""
    DEDUPED = "deduped"
    """`Deduped`: the job instance was skipped because one of its type runs already."""
    STATUS_LESS = "status_less"
    """The state URL answers with the result itself, which has no `status`: the real service does so, rarely."""
    NEVER = "never"
    """It runs for ever."""


@dataclass(frozen=True, slots=True)
class PathResult:
    """The result that belongs to the request: the created item, a definition, or nothing."""


@dataclass(frozen=True, slots=True)
class JsonResult:
    """A JSON document."""

    document: object


@dataclass(frozen=True, slots=True)
class BytesResult:
    """Bytes, sent as application/octet-stream."""

    content: bytes


@dataclass(frozen=True, slots=True)
class NoResult:
    """Nothing; told by leaving Location out of the last answer, or only by the 400 of the result URL."""

    told_by: Literal["no_location", "has_no_result"] = "no_location"


Result = PathResult | JsonResult | BytesResult | NoResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetails:
    """The error of a failed operation, with every field that Fabric's error document has."""

    code: str = "ItemCreationFailed"
    message: str = "The item could not be created"
    more_details: tuple[tuple[str, str], ...] = (
        ("InvalidDefinitionPart", "The definition part notebook-content.py is not valid"),
    )
    """Pairs of errorCode and message."""
    resource_id: str | None = None
    """None: the workspace of the request."""
    resource_type: str = "Workspace"
    is_retriable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The behaviour of one operation. Raises `ScriptError` when its fields do not make sense together."""

    name: str
    first_status: Literal[200, 201, 202] = 202
    """200 or 201: the result is there at once. 202: it has to be polled."""
    submit_throttles: int = 0
    """So many times is the first request put off by 429, before it is heard."""
    poll_throttles: int = 0
    """So many polls are put off by 429, before one is answered."""
    throttle_s: int = 1
    """Seconds of Retry-After in those 429s; whoever comes earlier is put off again."""
    running_polls: int | None = None
    """So many polls are answered as running (`running_s` then says nothing)."""
    running_s: float = 2.0
    """Seconds until it ends."""
    running_statuses: tuple[str, ...] = ()
    """Words for running, poll after poll, the last one repeated. Empty: `Running`, or a job's own words."""
    ending: Ending = Ending.SUCCEEDED
    result: Result = PathResult()
    error: ErrorDetails = ErrorDetails()
    retry_after: int | str | None = 1
    """Retry-After as it is sent: seconds, any text, or None for no header."""
    retry_after_as_date: bool = False
    """Send the seconds as an HTTP-date (RFC 9110 10.2.3)."""
    location: str | None = "self"
    """Host that Location points at: `self`, `host[:port]` of another (as the real service does), or None."""

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ScriptError("name", "must be 1 to 64 of a-z, 0-9, '.', '_', '-', and start with a letter or digit")
        if self.first_status not in (200, 201, 202):
            raise ScriptError("first_status", "must be 200, 201 or 202")
        for name, count in (
            ("submit_throttles", self.submit_throttles),
            ("poll_throttles", self.poll_throttles),
        ):
            if not 0 <= count <= MAX_POLLS:
                raise ScriptError(name, f"must be between 0 and {MAX_POLLS}")
        if self.running_polls is not None and not 0 <= self.running_polls <= MAX_POLLS:
            raise ScriptError("running_polls", f"must be between 0 and {MAX_POLLS}")
        if not 1 <= self.throttle_s <= 3600:
            raise ScriptError("throttle_s", "must be between 1 and 3600 seconds")
        if not (math.isfinite(self.running_s) and 0 <= self.running_s <= MAX_SPAN_S):
            raise ScriptError("running_s", f"must be between 0 and {MAX_SPAN_S:.0f} seconds")
        if len(self.running_statuses) > 100 or not all(self.running_statuses):
            raise ScriptError("running_statuses", "must be at most 100 words, none of them empty")
        self._check_retry_after()
        if self.location not in (None, "self") and not is_host(self.location):
            raise ScriptError("location", "must be 'self', a host with or without a port, or null")

    def _check_retry_after(self) -> None:
        if isinstance(self.retry_after, int):
            longest_s = int(MAX_SPAN_S) if self.retry_after_as_date else MAX_RETRY_AFTER_S
            if not 0 <= self.retry_after <= longest_s:
                raise ScriptError("retry_after", f"must be between 0 and {longest_s} seconds, or a text")
        elif self.retry_after_as_date:
            raise ScriptError("retry_after_as_date", "needs retry_after in whole seconds")
        elif self.retry_after is not None:
            check_header_text("retry_after", self.retry_after)


DEFAULT = Scenario(name="default")
"""What a request gets that asks for nothing: 202, Retry-After of a second, done after two."""

BUILT_IN: Mapping[str, Scenario] = MappingProxyType(
    {
        scenario.name: scenario
        for scenario in (
            Scenario(name="immediate", first_status=201),
            Scenario(name="polled", running_polls=1),
            Scenario(name="no-result", running_polls=1, result=NoResult("no_location")),
            Scenario(name="has-no-result", running_polls=1, result=NoResult("has_no_result")),
            Scenario(name="throttled", submit_throttles=1, poll_throttles=1, running_polls=1),
            Scenario(name="failed", running_polls=1, ending=Ending.FAILED),
            Scenario(name="slow", running_s=30.0, retry_after=5),
            Scenario(name="job", running_polls=2, retry_after=2),
            Scenario(name="unknown-status", running_polls=2, running_statuses=("Queued", "Finalizing")),
            Scenario(name="undefined", running_polls=2, running_statuses=("Undefined",)),
            Scenario(name="status-less", running_polls=1, ending=Ending.STATUS_LESS),
        )
    }
)
"""The scenarios that can be asked for by name from the start."""


def is_host(text: str) -> bool:
    """Whether `text` can stand where a URL has its host, with or without a port."""
    return _HOST.match(text) is not None
