"""The kinds of value that bodies and parameters are made of, each with its bounds and its documentation."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, WithJsonSchema

from renewer.config import parse_duration

MAX_WAIT_S = 300
"""How long an answer can be held back, in seconds."""

MAX_EARLY_PROBE_S = 300

_SPAN = r"^[0-9]{1,9}(\.[0-9]{1,9})? ?(ms|s|m|h|d)$"

_HEADER_NAME = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"
"""A token (RFC 9110 5.6.2)."""

_HEADER_VALUE = r"^([!-~]([\t -~]*[!-~])?)?$"
"""ASCII without white space around it (RFC 9110 5.5)."""

_OF_DEAD_LETTERS = re.compile(r"(?<=[^/])(?:/\$transfer)?/\$deadletterqueue\Z", re.ASCII | re.IGNORECASE)
"""What the dead-letter queue of an entity has behind its name, and that of what could not be forwarded."""


def _seconds(value: object) -> float:
    return parse_duration(value).total_seconds()


def _duration(*, least: float, most: float, exclusive: bool = False) -> object:
    number = {"type": "number", ("exclusiveMinimum" if exclusive else "minimum"): least, "maximum": most}
    text = {"type": "string", "pattern": _SPAN, "examples": ["500ms", "30s", "4m", "1h", "1d"]}
    return WithJsonSchema({"anyOf": [number, text]})


def _label_filter(value: object) -> object:
    if isinstance(value, str) and ":" in value:
        return value
    raise ValueError("must be NAME:VALUE")


def _number(value: object) -> object:
    # Python counts truth values among its numbers, and pydantic with it; JSON does not.
    if value is True or value is False:
        raise ValueError("must be a number, and no truth value")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be of printable characters")
    return value


def _entity(value: str) -> str:
    """One way to write it: what is told apart by its name must not have several."""
    name = _printable(value).strip().strip("/")
    if any(part in ("", ".", "..") or part != part.strip() for part in name.split("/")):
        raise ValueError("must be a queue, or a subscription as in topic/Subscriptions/name")
    if any(part.startswith("$") for part in _OF_DEAD_LETTERS.sub("", name).split("/")):
        raise ValueError(
            "must be a queue, a subscription, or the dead-letter queue of one, as in orders/$deadletterqueue: no other "
            "node with a $ has locks to keep"
        )
    return name


def _header_name(value: str) -> str:
    if re.fullmatch(_HEADER_NAME[1:-1], value) is None:
        raise ValueError("must be the name of a header: letters, digits and !#$%&'*+.^_`|~-")
    return value


def _header_value(value: str) -> str:
    if re.fullmatch(_HEADER_VALUE[1:-1], value) is None:
        raise ValueError("must be the value of a header: one line of ASCII, without blanks around it")
    return value


def _moment(value: datetime) -> datetime:
    # In its own zone: near the ends of the calendar it may have no place in another one.
    if not 2000 <= value.year < 2200:
        raise ValueError("must be a moment near to now")
    return value


def _callback(value: str) -> str:
    form = "must be an http or https URL of printable ASCII, without user and fragment"
    try:
        url = urlsplit(value)
        right = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        raise ValueError(form) from None
    if not right or "@" in url.netloc or url.fragment or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError(form)
    return value


Duration = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0, le=365 * 86_400),
    _duration(least=0, most=365 * 86_400, exclusive=True),
]
"""Seconds, or a text such as ``500ms``, ``30s``, ``4m``, ``1h``, ``1d``."""

EarlyProbe = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(ge=0, le=MAX_EARLY_PROBE_S),
    _duration(least=0, most=MAX_EARLY_PROBE_S),
]
"""How soon to look whether a new operation has ended already; 0 for not at all."""

OwnerSpan = Annotated[float, BeforeValidator(_seconds), Field(ge=1, le=86_400), _duration(least=1, most=86_400)]
"""How long an owner may give no sign of life."""

Wait = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=MAX_WAIT_S), _duration(least=0, most=MAX_WAIT_S)]
"""How long an answer may be held back."""

Patience = Annotated[
    float,
    BeforeValidator(_seconds),
    Field(gt=0, le=MAX_WAIT_S),
    _duration(least=0, most=MAX_WAIT_S, exclusive=True),
]
"""How long something may take."""

NO_TRUTH_VALUE = BeforeValidator(_number)
"""To stand behind the bounds of every number in a body."""

SequenceNumber = Annotated[int, Field(ge=0, lt=2**63), NO_TRUTH_VALUE]
ProcessId = Annotated[int, Field(ge=1, le=2**22), NO_TRUTH_VALUE]

LabelName = Annotated[str, Field(min_length=1, max_length=63)]
LabelValue = Annotated[str, Field(max_length=255)]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=32)]
LabelFilter = Annotated[str, Field(max_length=320, pattern=":"), BeforeValidator(_label_filter)]

QueryName = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_printable)]
QueryValue = Annotated[str, Field(max_length=2048), AfterValidator(_printable)]
HeaderName = Annotated[
    str, Field(max_length=256, json_schema_extra={"pattern": _HEADER_NAME}), AfterValidator(_header_name)
]
HeaderValue = Annotated[
    str, Field(max_length=2048, json_schema_extra={"pattern": _HEADER_VALUE}), AfterValidator(_header_value)
]

Name = Annotated[str, Field(min_length=1, max_length=127)]
Entity = Annotated[str, Field(min_length=1, max_length=400), AfterValidator(_entity)]
SessionId = Annotated[str, Field(max_length=128)]
"""Service Bus quotas: "SessionId 128 characters"."""

LockToken = Annotated[str, Field(max_length=64, json_schema_extra={"format": "uuid"})]
"""Read by the target, which knows how the official SDKs show it."""

Moment = Annotated[AwareDatetime, AfterValidator(_moment)]
CallbackUrl = Annotated[str, Field(max_length=2048, json_schema_extra={"format": "uri"}), AfterValidator(_callback)]
ItemId = Annotated[str, Field(min_length=1, max_length=128)]
