"""Letting a worker in: its tokens are checked here and replaced by the gateway's own on their way to the broker.

They are replaced in place, on the worker's own links to `$cbs`, in as many frames as they came in: so all numbers of
the session stay what both sides believe. A token that is refused goes on as well, as one that cannot be good, so that
the broker answers; what it answers is made to say why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from renewer.amqp import encode_frame
from renewer.errors import AmqpProtocolError
from renewer.gateway.access import Admitted
from renewer.gateway.puttoken import correlation, invalid, read_put_token, refusal, request_id, rewrite
from renewer.gateway.transfers import read_transfer

if TYPE_CHECKING:
    from renewer.gateway.access import Doorman
    from renewer.gateway.ledgers import LinkLedger
    from renewer.gateway.options import WorkerKey
    from renewer.gateway.puttoken import PutToken
    from renewer.targets.servicebus import NamespaceOptions
    from renewer.targets.servicebus.credentials import EntityToken

LONGEST_TOKEN: Final = 64 * 1024
"""Bytes of a whole request to put a token."""

_MOST_REFUSED: Final = 64
_MOST_UNFINISHED: Final = 8
_MOST_FRAMES: Final = 512


class LoginHost(Protocol):
    """The connection that somebody wants to be let in on."""

    now: float
    ledger: LinkLedger

    @property
    def wall_now(self) -> float:
        """The wall clock, in epoch seconds."""
        ...

    @property
    def broker_frame_size(self) -> int:
        """Bytes of a frame that the broker takes."""
        ...

    def want_token(self, entity: str) -> None:
        """Get the gateway's own token for the entity; nothing is read from the worker until it is there."""
        ...

    def let_in(self, key: WorkerKey, scope: str) -> None:
        """This key was proved, by a signature for what lies in the scope (see `Admitted`)."""
        ...

    def refused(self, why: str, detail: str) -> None:
        """A token was refused."""
        ...


class Login:
    """The tokens of one worker connection."""

    __slots__ = ("_doorman", "_host", "_namespace", "_refused", "_unfinished", "_waiting")

    def __init__(self, host: LoginHost, doorman: Doorman, namespace: NamespaceOptions) -> None:
        self._host = host
        self._doorman = doorman
        self._namespace = namespace
        self._unfinished: dict[tuple[int, int], _Request] = {}
        self._refused: dict[bytes, tuple[int, str]] = {}
        self._waiting: tuple[int, list[bytes], PutToken, str] | None = None

    def on_transfer(self, channel: int, body: bytes) -> bytes:
        """A transfer to `$cbs`: the frames that go on in its place, none while one is awaited."""
        handle, delivery_id, _, _, more, aborted, payload_at = read_transfer(body)
        if aborted:
            raise AmqpProtocolError("a token that was aborted", condition="amqp:not-implemented")
        request = self._unfinished.pop((channel, handle), None)
        if request is None or delivery_id not in (None, request.delivery_id):
            # A link that is gone may have left half a request behind, and its handle to another.
            request = _Request(delivery_id)
        request.heads.append(body[:payload_at])
        request.payload += body[payload_at:]
        if len(request.payload) > LONGEST_TOKEN or len(request.heads) > _MOST_FRAMES:
            raise AmqpProtocolError("a token that is too long", condition="amqp:link:message-size-exceeded")
        if more:
            self._unfinished[channel, handle] = request
            if len(self._unfinished) > _MOST_UNFINISHED:
                raise AmqpProtocolError("too many tokens at once", condition="amqp:resource-limit-exceeded")
            return b""
        heads, payload = request.heads, bytes(request.payload)
        put = read_put_token(payload)
        if put is None:
            raise AmqpProtocolError("$cbs is asked for more than put-token", condition="amqp:not-implemented")
        verdict = self._doorman.judge(put.token, put.audience or "", self._host.wall_now)
        if isinstance(verdict, Admitted):
            self._host.let_in(verdict.key, verdict.scope)
            self._waiting = channel, heads, put, verdict.entity
            self._host.want_token(verdict.entity)
            return b""
        self._host.refused(verdict.why, verdict.text)
        self._refuse(put, 401, verdict.text)
        return self._frames(channel, heads, invalid(put, audience=self._namespace.audience("")))

    def token_ready(self, token: EntityToken | None, detail: str) -> bytes:
        """The frames that go on now that the gateway's own token is there; or cannot be had, for this reason."""
        if self._waiting is None:
            return b""
        channel, heads, put, entity = self._waiting
        self._waiting = None
        audience = self._namespace.audience(entity)
        if token is None:
            # 503: the SDKs try again.
            self._refuse(put, 503, f"the gateway has no token for the namespace: {detail}")
            return self._frames(channel, heads, invalid(put, audience=audience))
        self._host.ledger.token_put(entity, token, self._host.now)
        payload = rewrite(put, audience=audience, kind=token.kind, token=token.text, expires_at=token.expires_at)
        return self._frames(channel, heads, payload)

    def on_reply(self, body: bytes) -> bytes | None:
        """An answer from `$cbs`; where the token was refused here, the one to give instead."""
        if not self._refused:
            return None
        *_, more, _, payload_at = read_transfer(body)
        payload = body[payload_at:]
        key = None if more else correlation(payload)
        refused = None if key is None else self._refused.pop(key, None)
        return None if refused is None else body[:payload_at] + refusal(payload, *refused)

    def _refuse(self, put: PutToken, status: int, text: str) -> None:
        key = request_id(put)
        if key is not None:
            if len(self._refused) >= _MOST_REFUSED:
                del self._refused[next(iter(self._refused))]
            self._refused[key] = status, text

    def _frames(self, channel: int, heads: list[bytes], payload: bytes) -> bytes:
        """The payload in as many frames as there are heads."""
        size = -(-len(payload) // len(heads))
        frames = []
        for index, head in enumerate(heads):
            frame = encode_frame(channel, head + payload[index * size : (index + 1) * size])
            if len(frame) > self._host.broker_frame_size:
                raise AmqpProtocolError(
                    "the gateway's token does not fit the broker's max-frame-size",
                    condition="amqp:frame-size-too-small",
                )
            frames.append(frame)
        return b"".join(frames)


class _Request:
    """One of several frames, as it comes."""

    __slots__ = ("delivery_id", "heads", "payload")

    def __init__(self, delivery_id: int | None) -> None:
        self.delivery_id = delivery_id
        self.heads: list[bytes] = []
        self.payload = bytearray()
