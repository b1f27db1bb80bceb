"""Claims-based security: one connection's tokens, put on `$cbs` for each entity and refreshed by the clock.

Service Bus drops the links of an entity whose token has run out. So a token is replaced after a third of its life,
whether or not anything else happens on the connection, and for two thirds of it a failure to do so costs nothing: it is
tried again and again while the old one is good.
"""

from __future__ import annotations

from enum import Enum, auto
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

    from renewer.targets.servicebus.carrier import Carrier
    from renewer.targets.servicebus.credentials import EntityToken, TokenProvider

CBS_NODE: Final = "$cbs"
REFRESH_AT: Final = 1 / 3
PUT_TIMEOUT_S: Final = 5.0
"""How long the answer to a token may take; a lost one must not cost much of the 20 s that a connection has."""
PUT_ATTEMPTS: Final = 3
ENDING_S: Final = 5.0
"""So shortly before its end a token may have ended already by the broker's clock."""

_RETRY_BASE_S: Final = 2.0
_RETRY_CAP_S: Final = 60.0
_RETRY_LEAST_S: Final = 1.0


class Tokens:
    """The tokens of one connection. `audience` is what an entity is called in a request to put its token."""

    def __init__(self, carrier: Carrier, provider: TokenProvider, audience: Callable[[str], str]) -> None:
        self._carrier = carrier
        self._provider = provider
        self._audience = audience
        self._pair = RequestPair(carrier, CBS_NODE, window=16)
        self._tokens: dict[str, _Token] = {}

    @property
    def count(self) -> int:
        """How many entities have one, or had."""
        return len(self._tokens)

    def knows(self, entity: str) -> bool:
        """Whether there is, or was, one for the entity."""
        return entity in self._tokens

    def has(self, entity: str) -> bool:
        """Whether a good token for the entity is in place."""
        token = self._tokens.get(entity)
        return token is not None and token.is_good(self._carrier.now())

    async def ensure(self, entity: str) -> None:
        """Return when a good token for the entity is in place.

        LeaseLostError (unauthorized) when the broker refuses a second one too, TransientError when it cannot be put.
        """
        if not self.has(entity):
            await self._put(entity, _Why.NONE)

    async def replace(self, entity: str, *, since: float) -> None:
        """Return when a token that was put after `since` is in place: an answer to something sent then was a 401."""
        for _ in range(2):
            token = self._tokens.get(entity)
            if token is not None and token.accepted is not None and token.accepted_at > since:
                return
            # What was under way already may have ended without putting one.
            await self._put(entity, _Why.REFUSED)

    def adopt(self, entity: str, token: EntityToken) -> None:
        """The broker has taken this token, put by somebody else: from now on it is replaced here when it is due."""
        now = self._carrier.now()
        known = self._tokens.setdefault(entity, _Token())
        known.take(token, now)
        known.accepted_at = now

    def has_run_out(self, entity: str) -> bool:
        """Whether the broker may have dropped links to the entity because its token has ended, by its clock or ours."""
        token = self._tokens.get(entity)
        return token is not None and token.accepted is not None and not token.is_good(self._carrier.now() + ENDING_S)

    def remedy(self, entity: str) -> str:
        """What to say when the broker let us in no longer: why there is no new token, or what to look at."""
        token = self._tokens.get(entity)
        return (token.trouble if token is not None else None) or self._provider.remedy

    def forget(self, entity: str) -> None:
        """Stop keeping a token for the entity."""
        self._tokens.pop(entity, None)

    def refresh(self) -> None:
        """Begin to put what is due. Called every now and then."""
        now = self._carrier.now()
        for entity, token in self._tokens.items():
            if token.work is None and token.accepted is not None and token.refresh_at <= now:
                self._begin(entity, token, _Why.DUE)

    def pump(self) -> None:
        """See `RequestPair.pump`."""
        self._pair.pump()

    def close(self, error: RemoteError) -> None:
        """The connection is gone."""
        self._pair.close(error)

    async def _put(self, entity: str, why: _Why) -> None:
        """Put a token, or wait with others for the one that is under way."""
        token = self._tokens.get(entity)
        if token is None:
            token = self._tokens[entity] = _Token()
        work = token.work or self._begin(entity, token, why)
        await work.done.wait()
        if work.error is not None:
            raise copy_of(work.error)

    def _begin(self, entity: str, token: _Token, why: _Why) -> _Work:
        work = token.work = _Work()
        self._carrier.spawn(self._work, entity, token, work, why)
        return work

    async def _work(self, entity: str, token: _Token, work: _Work, why: _Why) -> None:
        # Not done by those who wait for it, as each of them may be cancelled.
        work.error = TransientError("the connection was closed", kind="network")
        try:
            old = token.accepted if why is _Why.DUE else None
            beyond = None if old is None else old.ends_at
            given = await self._provider.token(entity, beyond=beyond, refused=why is _Why.REFUSED)
            if old is None or given.text != old.text:
                given = await self._put_until_answered(entity, given)
                token.accepted_at = self._carrier.now()
            # Else there is no other one, for now or for ever, and the broker has this one.
            token.take(given, self._carrier.now())
            work.error = None
        except RemoteError as error:
            work.error = error
            self._failed(entity, token, error)
        finally:
            token.work = None
            work.done.set()

    def _failed(self, entity: str, token: _Token, error: RemoteError) -> None:
        now = self._carrier.now()
        token.failures += 1
        token.trouble = str(error)
        delay = self._carrier.backoff_s(token.failures, base_s=_RETRY_BASE_S, cap_s=_RETRY_CAP_S)
        if token.accepted is not None:
            # Several more attempts fit, however little of the old one is left.
            left_s = token.accepted.ends_at - now
            delay = min(delay, max(_RETRY_LEAST_S, left_s / 4)) if left_s > 0 else delay
            self._carrier.token_not_refreshed(entity, error, left_s)
        token.refresh_at = now + delay

    async def _put_until_answered(self, entity: str, token: EntityToken) -> EntityToken:
        """Put the token, or another one if it is refused, and return the one that was taken."""
        was_refused = False
        attempts_left = PUT_ATTEMPTS
        while True:
            attempts_left -= 1
            try:
                await self._put_once(entity, token)
                return token
            except LeaseLostError as error:
                if error.reason != LossReason.UNAUTHORIZED:
                    raise
                other = token if was_refused else await self._provider.token(entity, refused=True)
                if other.text == token.text:
                    raise copy_of(error, text=f"{error}; {self._provider.remedy}") from None
                token, was_refused = other, True
            except TransientError as error:
                if error.kind != "timeout" or not attempts_left:
                    raise

    async def _put_once(self, entity: str, token: EntityToken) -> None:
        fields = {
            "operation": "put-token",
            "type": token.kind,
            "name": self._audience(entity),
            "expiration": Timestamp(1000 * token.expires_at),
        }
        with anyio.move_on_after(min(self._carrier.answer_timeout_s, PUT_TIMEOUT_S)):
            reply = await self._pair.request(Template.of(token.text, fields, reply_to=CBS_NODE))
            if reply.is_success:
                return
            if reply.status is None:
                raise TransientError("the answer to a token has no status", kind="garbage")
            raise renewal_refused(reply.status, reply.condition, reply.description)
        # Perhaps the broker has lost its end of the links.
        self._pair.reopen()
        raise TransientError("a token was not acknowledged in time", kind="timeout")


class _Token:
    """What is known of the token of one entity. Moments are monotonic."""

    __slots__ = ("accepted", "accepted_at", "failures", "refresh_at", "trouble", "work")

    def __init__(self) -> None:
        self.accepted: EntityToken | None = None
        self.accepted_at = 0.0
        self.refresh_at = 0.0
        self.failures = 0
        self.trouble: str | None = None
        self.work: _Work | None = None

    def is_good(self, now: float) -> bool:
        return self.accepted is not None and now < self.accepted.ends_at

    def take(self, token: EntityToken, now: float) -> None:
        """The broker has this one, and there is no better one now."""
        self.accepted = token
        self.failures, self.trouble = 0, None
        left_s = token.ends_at - now
        self.refresh_at = now + (left_s * REFRESH_AT if left_s > 0 else _RETRY_CAP_S)


class _Why(Enum):
    """Why a token is put."""

    NONE = auto()
    """None is in place, or it has ended."""
    DUE = auto()
    """It is time to replace it."""
    REFUSED = auto()
    """Something was refused though it is in place."""


class _Work:
    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.error: RemoteError | None = None
