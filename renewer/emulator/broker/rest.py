"""Messages over HTTP ("Service Bus runtime REST"): peek-lock, renew, unlock and delete, for entities without sessions.

Served beside Fabric and the admin API, which have other paths. Errors are the service's XML documents.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote
from uuid import UUID
from xml.sax.saxutils import escape

import anyio
from starlette.requests import Request
from starlette.responses import Response

from renewer.amqp import Data, Value
from renewer.emulator.broker import refusals
from renewer.emulator.broker.cbs import PUT_TOKEN, judge_token
from renewer.emulator.broker.entities import Entity
from renewer.emulator.broker.messages import Outcome
from renewer.emulator.broker.play import play_for
from renewer.emulator.broker.refusals import RefusedError
from renewer.emulator.http import client_gone, reset_connection

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from renewer.emulator.broker.messages import MessageLock
    from renewer.emulator.broker.server import Broker

POINT: Final = "servicebus.rest"
"""Where faults are placed; the attributes are `operation` (peek-lock, renew, unlock, delete) and `entity`."""

MAX_WAIT_S: Final = 60.0
_LOOK_S: Final = 0.02
_PATH: Final = re.compile(r"/(?P<entity>[^?]+)/messages/(?:(?P<head>head)|(?P<id>[^/]+)/(?P<token>[^/]+))/?")
_ATOM: Final = "application/atom+xml;type=entry;charset=utf-8"
_OPERATIONS: Final = {"POST": "renew", "PUT": "unlock", "DELETE": "delete"}


def with_messages(broker: Broker, other: ASGIApp) -> ASGIApp:
    """Serve the broker's messages; every other path is `other`'s."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None or found["entity"].startswith(("v1/", "_emulator/")):
            await other(scope, receive, send)
            return
        response = await _answer(broker, Request(scope, receive), found)
        if response is not None:
            await response(scope, receive, send)

    return app


async def _answer(broker: Broker, request: Request, found: re.Match[str]) -> Response | None:
    operation = "peek-lock" if found["head"] else _OPERATIONS.get(request.method)
    if operation is None or (found["head"] and request.method != "POST"):
        return _error(405, "The specified HTTP verb is not valid here.")
    path = found["entity"].strip("/")
    play = play_for(broker.faults.pick(POINT, operation=operation, entity=path))
    if play.breakage is not None:
        reset_connection(request.scope)
    if play.breakage is not None or play.is_ignored:
        await client_gone(request.scope, request.receive)
        return None
    try:
        if play.refusal is not None:
            raise play.refusal
        response = await _carry_out(broker, request, found, path, operation)
    except RefusedError as refusal:
        response = _error(_status(refusal), broker.describe(refusal.text))
    broker.settle_up()
    await anyio.sleep(play.delay_s)
    if play.is_silent:
        await client_gone(request.scope, request.receive)
        return None
    return response


async def _carry_out(broker: Broker, request: Request, found: re.Match[str], path: str, operation: str) -> Response:
    _let_in(broker, request, path)
    entity = broker.namespace.find(path)
    if not isinstance(entity, Entity):
        raise refusals.entity_not_found(path)
    if entity.requires_session:
        raise refusals.argument_error("It is not possible for an entity that requires sessions.")
    if operation == "peek-lock":
        return await _peek_lock(broker, request, entity)
    lock = _lock(broker, entity, found)
    now = broker.now()
    match operation:
        case "renew":
            entity.renew([lock.token], now)
        case "unlock":
            entity.settle(lock, Outcome.ABANDON, now)
        case _:
            entity.settle(lock, Outcome.COMPLETE, now)
    return Response(b"", 200, {"Content-Type": _ATOM})


def _let_in(broker: Broker, request: Request, path: str) -> None:
    given = request.headers.get("authorization", "")
    scheme, _, bearer = given.partition(" ")
    token = bearer.strip() if scheme.lower() == "bearer" else given
    if not token:
        raise refusals.unauthorized("MissingToken: the request has no Authorization.")
    named = {"operation": PUT_TOKEN, "name": f"{request.url.scheme}://{request.url.netloc}/{path}"}
    judge_token(token, named, broker.options, broker.true_utc_s())


def _lock(broker: Broker, entity: Entity, found: re.Match[str]) -> MessageLock:
    """The lock that the path names: by its token, and by the sequence number or the id of its message."""
    try:
        token = UUID(unquote(found["token"]))
    except ValueError:
        raise refusals.message_lock_lost() from None
    (lock,) = entity.locks_of([token], broker.now())
    properties = lock.message.content.properties
    names = {str(lock.message.sequence_number), str(None if properties is None else properties.message_id)}
    if unquote(found["id"]) not in names:
        raise refusals.message_lock_lost()
    return lock


async def _peek_lock(broker: Broker, request: Request, entity: Entity) -> Response:
    text = request.query_params.get("timeout", "60")
    wait_s = min(float(text), MAX_WAIT_S) if text.isascii() and text.isdigit() else MAX_WAIT_S
    until = broker.now() + wait_s
    while (lock := entity.lock_next(broker.now())) is None:
        if broker.now() >= until or await request.is_disconnected():
            return Response(status_code=204)
        await anyio.sleep(_LOOK_S)
    return _message(broker, request, entity, lock)


def _message(broker: Broker, request: Request, entity: Entity, lock: MessageLock) -> Response:
    message, content = lock.message, lock.message.content
    properties = content.properties
    message_id = None if properties is None else properties.message_id
    until_ms = broker.utc_ms_at(lock.lasts_until or broker.now())
    shown: dict[str, Any] = {
        "DeliveryCount": message.delivery_count + 1,
        "EnqueuedTimeUtc": _http_date(message.enqueued_ms),
        "LockToken": str(lock.token),
        "LockedUntilUtc": _http_date(until_ms),
        "MessageId": str(message_id),
        "SequenceNumber": message.sequence_number,
        "State": "Active",
    }
    here = f"{request.url.scheme}://{request.url.netloc}/{entity.path}/messages/{message.sequence_number}/{lock.token}"
    content_type = (properties.content_type if properties is not None else None) or "application/octet-stream"
    headers = {"Location": here, "BrokerProperties": json.dumps(shown), "Content-Type": content_type}
    return Response(_bytes_of(content.body), 201, headers)


def _bytes_of(body: object) -> bytes:
    match body:
        case Data():
            return body.joined()
        case Value(bytes() as raw):
            return raw
        case Value(value):
            return str(value).encode()
        case _:
            return b""


def _http_date(at_ms: float) -> str:
    return format_datetime(datetime.fromtimestamp(at_ms / 1000, UTC), usegmt=True)


def _status(refusal: RefusedError) -> int:
    """REST says 404 of a lock and 410 of an entity where AMQP has it the other way round."""
    if refusal.condition == "com.microsoft:message-lock-lost":
        return 404
    return 410 if refusal.condition == "amqp:not-found" else refusal.status


def _error(status: int, text: str) -> Response:
    document = f"<Error><Code>{status}</Code><Detail>{escape(text)}</Detail></Error>"
    return Response(document, status, {"Content-Type": "application/xml; charset=utf-8"})
