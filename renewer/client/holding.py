"""Having a lock for the length of a block: how it is acquired, and what both kinds of blocks show of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from renewer.client import calls
from renewer.client.errors import RenewerApiError, Timeout
from renewer.client.plans import Pause, Plan, Terms, backoff_s, exchange, new_key, taken
from renewer.client.quantities import seconds
from renewer.client.watching import Watch, watching
from renewer.client.wire import Request

if TYPE_CHECKING:
    from datetime import datetime

    from renewer.client.models import Lease

_HEARTBEAT_TTL_S: Final = 30.0
_SLOWER: Final = 10.0
"""Somebody else's lock is asked for again this much less often than a daemon that is away."""


@dataclass(frozen=True, slots=True)
class Attach:
    """A step: from now on the lease is watched over, and given back when the block is left."""

    watch: Watch


@dataclass(frozen=True, slots=True)
class AwaitSettled:
    """A step: wait until it is known whether the lock could be had, or the time is over (None: for ever)."""

    watch: Watch
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Detach:
    """A step: the lease is watched over no longer."""


class Held:
    """A lock that is ours for the length of a block, as it was last heard of."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __repr__(self) -> str:
        state = "lost" if self.is_lost else self.lease.state
        return f"<{type(self).__name__} {self.lease.entity} {self.lease.session_id or ''} {state}>"

    @property
    def lease(self) -> Lease:
        """The lease that keeps the lock."""
        return self._watch.lease

    @property
    def epoch(self) -> int:
        """Which acquisition of the lock this is; a fencing token: later ones are greater."""
        return self._watch.epoch or 0

    @property
    def locked_until_utc(self) -> datetime | None:
        """Until when the lock lasts if it is not renewed again, by the broker's clock."""
        return self.lease.locked_until_utc

    @property
    def is_lost(self) -> bool:
        """Whether the lock is no longer ours."""
        return self._watch.loss is not None

    @property
    def is_at_risk(self) -> bool:
        """Whether the lock may be gone: do nothing now that must not be done twice."""
        return self._watch.at_risk or self.is_lost

    def check(self) -> None:
        """Raise `SessionLost` (for a message `LockLost`) if the lock is no longer ours."""
        if self._watch.loss is not None:
            raise self._watch.error()

    def _renewed(self, lease: Lease) -> datetime | None:
        if lease.epoch == self._watch.epoch and not self.is_lost:
            self._watch.lease = lease
        return lease.locked_until_utc


def acquire(wish: calls.LeaseWish, terms: Terms, *, wait_s: float | None) -> Plan[Watch]:
    """Register a lease of our own and wait until the lock is ours.

    A session that somebody else has is asked for again until the time is over. Raises `Timeout`, or `LockLost` if it
    cannot be had.
    """
    over_at = None if wait_s is None else terms.clock() + wait_s
    attempt = 0
    problem: RenewerApiError | None = None
    while True:
        registration = calls.register_lease(wish, wait_s=0.0, idempotency_key=new_key())
        registered: calls.Registered = yield from exchange(registration, terms)
        if registered.created:
            watch = Watch(registered.lease)
            yield Attach(watch)
            yield AwaitSettled(watch, None if over_at is None else max(0.0, over_at - terms.clock()))
            if watch.epoch is not None:
                return watch
            yield Detach()
            yield from _forget(watch.lease.id, terms)
            if watch.loss is None:
                raise Timeout(_too_late(wish, wait_s, problem or watch.lease.last_error)) from problem
            problem = watch.error()
            if wish.kind != "session" or watch.loss.reason != "refused":
                raise problem
        else:
            problem = taken(registered.lease)
        delay_s = _SLOWER * backoff_s(attempt)
        if over_at is not None and terms.clock() + delay_s > over_at:
            if not wait_s:
                raise problem
            raise Timeout(_too_late(wish, wait_s, problem)) from problem
        attempt += 1
        yield Pause(delay_s)


def watch_over(watch: Watch, wish: calls.LeaseWish, terms: Terms) -> Plan[None]:
    """The plan that watches over what `acquire` attached."""
    ttl_s = _HEARTBEAT_TTL_S if wish.owner_ttl is None else seconds("owner_ttl", wish.owner_ttl)
    beat_every_s = ttl_s / 3 if wish.owner == "heartbeat" else None
    return watching(watch, terms, owner=wish.owner == "connection", beat_every_s=beat_every_s)


def give_back(lease_id: str, terms: Terms) -> Plan[None]:
    """Release what was held; that it is gone already is no error."""
    yield from exchange(calls.release(lease_id), terms)


def renewing(held: Held, terms: Terms, *, timeout_s: float) -> Plan[Lease]:
    """Renew now. No answer within the time is a `Timeout`, and says nothing about the lock."""
    call = calls.renew(held.lease.id, timeout_s=timeout_s)
    lease: Lease = yield from exchange(call, terms)
    return lease


def session_state(held: Held, terms: Terms, *, timeout_s: float | None) -> Plan[bytes | None]:
    """The state that the session carries."""
    call = calls.get_state(held.lease.id)
    state: bytes | None = yield from exchange(replace(call, request=_limited(call.request, timeout_s)), terms)
    return state


def new_session_state(
    held: Held, state: bytes | bytearray | str | None, terms: Terms, *, timeout_s: float | None
) -> Plan[None]:
    """Replace or clear the state that the session carries."""
    call = calls.set_state(held.lease.id, state)
    yield from exchange(replace(call, request=_limited(call.request, timeout_s)), terms)


def _limited(request: Request, timeout_s: float | None) -> Request:
    return request if timeout_s is None else replace(request, limit_s=timeout_s)


def _forget(lease_id: str, terms: Terms) -> Plan[None]:
    try:
        yield from exchange(calls.release(lease_id, forget=True), terms)
    except RenewerApiError:
        return  # with its owner gone it goes by itself


def _too_late(wish: calls.LeaseWish, wait_s: float | None, why: object) -> str:
    what = f"session {wish.session_id!r}" if wish.session_id is not None else f"a {wish.kind}"
    return f"{what} of {wish.entity} could not be had in {wait_s or 0.0:g} s" + (f": {why}" if why else "")
