"""Claims-based security: one connection's tokens, put on `$cbs` for each entity and refreshed by the clock.

A token is renewed at three quarters of its life whether or not anything else happens on the connection: Service Bus
drops the links of an entity whose token has run out. While the old one is good, putting a new one is tried again and
again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from renewer.amqp import Timestamp
from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, RemoteError, TransientError
from renewer.targets.servicebus.envelope import Template
from renewer.targets.servicebus.requests import RequestPair
from renewer.targets.servicebus.verdicts import copy_of, renewal_refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.targets.servicebus.connection import BrokerConnection

CBS_NODE: Final = "$cbs"
REFRESH_AT: Final = 0.75
PUT_TIMEOUT_S: Final = 5.0
"""How long the answer to a token may take; a lost one must not cost much of the 20 s that a connection has."""
PUT_ATTEMPTS: Final = 3

_RETRY_BASE_S: Final = 2.0
_RETRY_CAP_S: Final = 60.0


class Tokens:
    """The tokens of one connection. `make_token(entity, distrustful)` makes one and says when it ends (epoch seconds).

    A distrustful one is asked for after a refusal: the broker's clock may not be ours, so that one lives longer.
    """

    def __init__(
        self,
        carrier: BrokerConnection,
        make_token: Callable[[str, bool], tuple[str, int]],
        audience: Callable[[str], str],
        *,
        lifetime_s: float,
    ) -> None:
        self._carrier = carrier
        self._make_token = make_token
        self._audience = audience
        self._lifetime_s = lifetime_s
        self._pair = RequestPair(carrier, CBS_NODE, window=16)
        self._tokens: dict[str, _Token] = {}

    async def ensure(self, entity: str) -> None:
        """Return when a good token for the entity is in place.

        LeaseLostError (unauthorized) when the broker refuses a second one too, TransientError when it cannot be put.
        """
        token = self._tokens.get(entity)
        if token is None or not token.is_good(self._carrier.now()):
            await self._put(entity)

    async def replace(self, entity: str, *, since: float) -> None:
        """Return when a token that was put after `since` is in place: an answer to something sent then was a 401."""
        token = self._tokens.get(entity)
        if token is None or token.accepted_at is None or token.accepted_at <= since:
            await self._put(entity)

    def forget(self, entity: str) -> None:
        """Stop keeping a token for the entity."""
        self._tokens.pop(entity, None)

    def refresh(self) -> None:
        """Begin to put what is due. Called every now and then."""
        now = self._carrier.now()
        for entity, token in self._tokens.items():
            if token.work is None and token.accepted_at is not None and token.refresh_at <= now:
                self._begin(entity, token)

    def pump(self) -> None:
        """See `RequestPair.pump`."""
        self._pair.pump()

    def close(self, error: RemoteError) -> None:
        """The connection is gone."""
        self._pair.close(error)

    async def _put(self, entity: str) -> None:
        """Put a token, or wait with others for the one that is under way."""
        token = self._tokens.get(entity)
        if token is None:
            token = self._tokens[entity] = _Token()
        work = token.work or self._begin(entity, token)
        await work.done.wait()
        if work.error is not None:
            raise copy_of(work.error)

    def _begin(self, entity: str, token: _Token) -> _Work:
        work = token.work = _Work()
        self._carrier.spawn(self._work, entity, token, work)
        return work

    async def _work(self, entity: str, token: _Token, work: _Work) -> None:
        # Not done by those who wait for it, as each of them may be cancelled.
        work.error = TransientError("the connection was closed", kind="network")
        try:
            await self._put_until_answered(entity)
            now = self._carrier.now()
            token.accepted_at, token.failures = now, 0
            token.refresh_at = now + self._lifetime_s * REFRESH_AT
            token.expires_at = now + self._lifetime_s
            work.error = None
        except RemoteError as error:
            work.error = error
            token.failures += 1
            delay = self._carrier.backoff_s(token.failures, base_s=_RETRY_BASE_S, cap_s=_RETRY_CAP_S)
            token.refresh_at = self._carrier.now() + delay
            if token.accepted_at is not None:
                self._carrier.token_not_refreshed(entity, error)
        finally:
            token.work = None
            work.done.set()

    async def _put_until_answered(self, entity: str) -> None:
        is_distrustful = False
        for attempts_left in reversed(range(PUT_ATTEMPTS)):
            try:
                await self._put_once(entity, distrustful=is_distrustful)
                return
            except LeaseLostError as error:
                if error.reason != LossReason.UNAUTHORIZED or is_distrustful:
                    raise
                is_distrustful = True
            except TransientError as error:
                if error.kind != "timeout" or not attempts_left:
                    raise

    async def _put_once(self, entity: str, *, distrustful: bool) -> None:
        token, expires_at = self._make_token(entity, distrustful)
        fields = {
            "operation": "put-token",
            "type": "servicebus.windows.net:sastoken",
            "name": self._audience(entity),
            "expiration": Timestamp(1000 * expires_at),
        }
        with anyio.move_on_after(min(self._carrier.answer_timeout_s, PUT_TIMEOUT_S)):
            reply = await self._pair.request(Template.of(token, fields, reply_to=CBS_NODE))
            if reply.is_success:
                return
            if reply.status is None:
                raise TransientError("the answer to a token has no status", kind="garbage")
            raise renewal_refused(reply.status, reply.condition, reply.description)
        # Perhaps the broker has lost its end of the links.
        self._pair.reopen()
        raise TransientError("a token was not acknowledged in time", kind="timeout")


class _Token:
    __slots__ = ("accepted_at", "expires_at", "failures", "refresh_at", "work")

    def __init__(self) -> None:
        self.accepted_at: float | None = None
        self.refresh_at = 0.0
        self.expires_at = 0.0
        self.failures = 0
        self.work: _Work | None = None

    def is_good(self, now: float) -> bool:
        return self.accepted_at is not None and now < self.expires_at


class _Work:
    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: RemoteError | None = None
