"""Put-token requests of workers and their replies, read and put right for the namespace (AMQP claims-based security).

What must leave the machine is the gateway's own token, never what a worker was let in by. Whatever else is in a message
stays as it is, with its types: the request is encoded anew, as no client signs or counts its bytes.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote_plus

from renewer.amqp.message import Message, Value
from renewer.amqp.types import Int, Symbol, Timestamp
from renewer.gateway import sections

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class PutToken:
    """A request to take a token. `kind` is its type as named by the worker, `audience` what it is for.

    `key` is its message-id, as `request_id` gives it.
    """

    operation: str
    kind: str | None
    audience: str | None
    token: str = field(repr=False)
    key: bytes | None
    message: Message = field(repr=False)


def read_put_token(payload: bytes) -> PutToken | None:
    """The request in a payload sent to `$cbs`; None if it asks for something else, or with something that is no token.

    AmqpProtocolError if it is no message.
    """
    message = Message.decode(payload)
    fields = message.application_properties
    operation, token = _text(fields.get(_OPERATION)), message.body
    if operation != PUT_TOKEN or not isinstance(token, Value) or not isinstance(token.value, str):
        return None
    return PutToken(
        operation=operation,
        kind=_text(fields.get(_TYPE)),
        audience=_text(fields.get(_NAME)),
        token=str(token.value),
        key=sections.message_id(payload, sections.find_sections(payload)),
        message=message,
    )


def rewrite(put: PutToken, *, audience: str, kind: str, token: str, expires_at: float) -> bytes:
    """The payload of the same request with another token, which ends at `expires_at` (epoch seconds)."""
    return _with(put.message, {_NAME: audience, _TYPE: kind, _EXPIRATION: Timestamp(int(1000 * expires_at))}, token)


def invalid(put: PutToken, *, audience: str) -> bytes:
    """The payload of the same request with a token that cannot be good, so that the broker itself says so."""
    resource = quote_plus(audience, safe="")
    signature = quote_plus(base64.b64encode(bytes(32)).decode(), safe="")
    token = f"SharedAccessSignature sr={resource}&sig={signature}&se={_FAR_AWAY_S}&skn=invalid"
    return _with(put.message, {_NAME: audience, _TYPE: SAS_TOKEN}, token)


def correlation(payload: bytes) -> bytes | None:
    """Which request a reply answers, comparable with `request_id`; None if it does not say.

    AmqpProtocolError, here and below, if the payload is no message.
    """
    return sections.correlation_id(payload, sections.find_sections(payload))


def request_id(put: PutToken) -> bytes | None:
    """The message-id of a request in a comparable form; None if it has none."""
    return put.key


def reply_status(payload: bytes) -> int | None:
    """The status in a reply, None if it gives none."""
    fields = sections.read_map(payload, sections.find_sections(payload), sections.APPLICATION_PROPERTIES)
    for names in _STATUS_NAMES:
        status = fields.get(names[0])
        if isinstance(status, int) and not isinstance(status, bool):
            return int(status)
    return None


def refusal(payload: bytes, status: int, text: str) -> bytes:
    """The payload of the same reply with this status and description, by the names that the broker has for them."""
    message = Message.decode(payload)
    fields = dict(message.application_properties)
    names = next((names for names in _STATUS_NAMES if names[0] in fields), _STATUS_NAMES[0])
    fields[names[0]], fields[names[1]] = Int(status), text
    if names[2] in fields:
        fields[names[2]] = Symbol("amqp:unauthorized-access")
    return replace(message, application_properties=fields).encode()


PUT_TOKEN: Final = "put-token"  # noqa: S105
SAS_TOKEN: Final = "servicebus.windows.net:sastoken"  # noqa: S105

_OPERATION: Final = "operation"
_TYPE: Final = "type"
_NAME: Final = "name"
_EXPIRATION: Final = "expiration"
_STATUS_NAMES: Final = (
    ("status-code", "status-description", "error-condition"),
    ("statusCode", "statusDescription", "errorCondition"),
)
_FAR_AWAY_S: Final = 4_102_444_800
"""The year 2100: it is to be the signature that is found wrong."""


def _with(message: Message, fields: Mapping[str, Any], token: str) -> bytes:
    properties = {**message.application_properties, **fields}
    return replace(message, application_properties=properties, body=Value(token)).encode()


def _text(value: object) -> str | None:
    """Clients write names as strings, symbols, or binaries."""
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return str(value) if isinstance(value, str) else None
