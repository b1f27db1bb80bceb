"""Having a lock for the length of a block: how it is acquired, and what both kinds of blocks show of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from renewer.client import leasecalls
from renewer.client.errors import Conflict, LockError, LockLost, RenewerApiError, Timeout, Unavailable
from renewer.client.leasecalls import LeaseWish
from renewer.client.plans import Pause, Plan, Terms, backoff_s, exchange, new_key
from renewer.client.quantities import seconds
from renewer.client.watching import Watch, watching

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from renewer.client.models import Lease

_HEARTBEAT_TTL_S: Final = 30.0
_SLOWER: Final = 2.0
"""Somebody else's lock is asked for again this much less often than a daemon that is away."""

HEAR_S: Final = 2.5
"""How long the watcher may take to hear what the daemon has to say of a lock that is in doubt."""

_LISTEN_S: Final = 5.0
_SOON_S: Final = 0.001

NEWS_S: Final = 0.25
"""How long news of a lock at risk are waited for before it is looked at again."""

_GIVE_BACK_FOR_S: Final = 0.3
"""How long a daemon that is away is tried again at the end of a block: it lets go of the lock by itself as well."""

_ENDS: Final = {
    "connection": "the daemon gives it back by itself when it notices that the block has ended",
    "heartbeat": "the daemon gives it back by itself when no more heartbeats come",
    "pid": "the daemon gives it back by itself when this process has ended",
    "none": "give it back with `renewer lease release {id}`",
}


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

    def __init__(self, watch: Watch, terms: Terms) -> None:
        self._watch = watch
        self._terms = terms

    def __repr__(self) -> str:
        state = "lost" if self.is_lost else "at_risk" if self.is_at_risk else self.lease.state
        return f"<{type(self).__name__} {self.lease.entity} {self.lease.session_id or ''} {state}>"

    @property
    def lease(self) -> Lease:
        """The lease that keeps the lock."""
        return self._watch.lease

    @property
    def lease_id(self) -> str:
        """The id of that lease."""
        return self.lease.id

    @property
    def epoch(self) -> int:
        """Which acquisition of the lock within its lease this is: 1, and greater ones after a loss.

        Every new lease, and so every new block, starts at 1: epochs of two leases cannot be compared.
        """
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
    def is_settled(self) -> bool:
        """Whether the message is known to be settled, so that there is nothing to keep any longer, and nothing lost."""
        return self._watch.settled is not None

    @property
    def is_at_risk(self) -> bool:
        """Whether the lock is lost or may be: do nothing now that must not be done twice."""
        return self._doubt() is not None

    def check(self) -> None:
        """Raise `SessionLost` (for a message `LockLost`) if the lock is no longer ours, `LockAtRisk` if it may be gone.

        Both are `LockError`. After `LockAtRisk` the lock may recover, and a later check pass.
        """
        doubt = self._doubt()
        if doubt is not None:
            raise doubt

    def _doubt(self) -> LockError | None:
        return self._watch.doubt(self._terms.clock())

    @property
    def _is_stale(self) -> bool:
        return self._watch.risk is None and self._watch.is_stale(self._terms.clock())

    def _settled(self, lease: Lease) -> None:
        self._watch.on_settled(lease)

    def _renewed(self, lease: Lease) -> datetime | None:
        if lease.epoch == self._watch.epoch and not self.is_lost:
            self._watch.lease = lease
        return lease.locked_until_utc


class Keeping:
    """What stands behind a block: the wish, the watch over its lease, and what the owner wants to be told."""

    def __init__(
        self,
        terms: Terms,
        wish: LeaseWish,
        on_lost: Callable[[Any, str, str], object] | None,
        on_at_risk: Callable[[Any, str], object] | None,
    ) -> None:
        self._terms = terms
        self._wish = wish
        self._on_lost = on_lost
        self._on_at_risk = on_at_risk
        self._watch: Watch | None = None
        self.lock: Any = None
        self.left_lost: bool | None = None
        """Whether the lock was lost when the block was left; what comes after is our own doing."""

    @property
    def was_held(self) -> bool:
        """Whether the lock was ours at any time."""
        return self._watch is not None and self._watch.epoch is not None

    def error(self) -> LockLost:
        """The loss of it."""
        assert self._watch is not None  # noqa: S101
        return self._watch.error()

    def _is_worth_telling(self) -> bool:
        """Whether the owner wants to hear of news: not before the lock was its own, nor of what it did itself."""
        return self.was_held and self.left_lost is not False


def acquire(wish: LeaseWish, terms: Terms, *, wait_s: float | None) -> Plan[Watch]:
    """Register a lease of our own and wait until the lock is ours.

    What somebody else has is asked for again until the time is over. Raises `Timeout` (`Conflict` without a `wait_s`),
    or at once `LockLost` if it cannot be had at all.
    """
    over_at = None if wait_s is None else terms.clock() + wait_s
    attempt = 0
    while True:
        problem: RenewerApiError
        registered = yield from _register(wish, terms)
        if isinstance(registered, Conflict):
            problem = registered
            too_late = f"{problem}; it was not given back in {wait_s or 0.0:g} s"
        else:
            watch = Watch(registered)
            yield Attach(watch)
            yield AwaitSettled(watch, None if over_at is None else max(0.0, over_at - terms.clock()))
            if watch.epoch is not None:
                return watch
            yield Detach()
            yield from _forget(watch.lease.id, terms)
            if watch.loss is None:
                raise Timeout(_too_late(wish, wait_s, watch.lease.last_error))
            problem = watch.error()
            if watch.loss.reason != "owner_gone":
                raise problem
            # What says that we live broke off while we waited; the broker has not said a word.
            too_late = _too_late(wish, wait_s, watch.loss.detail)
        delay_s = _SLOWER * backoff_s(attempt)
        if over_at is not None:
            if not wait_s:
                raise problem
            if terms.clock() >= over_at:
                raise Timeout(too_late) from problem
            delay_s = min(delay_s, over_at - terms.clock())
        attempt += 1
        yield Pause(max(0.0, delay_s))


def watch_over(watch: Watch, wish: LeaseWish, terms: Terms) -> Plan[None]:
    """The plan that watches over what `acquire` attached."""
    ttl_s = _HEARTBEAT_TTL_S if wish.owner_ttl is None else seconds("owner_ttl", wish.owner_ttl)
    beat_every_s = ttl_s / 3 if wish.owner == "heartbeat" else None
    return watching(watch, terms, owner=wish.owner == "connection", beat_every_s=beat_every_s)


def give_back(lease_id: str, wish: LeaseWish, terms: Terms) -> Plan[None]:
    """Release what was held. Raises `NotFound` where it is gone already."""
    if wish.owner != "none":
        terms = replace(terms, retry_for_s=min(terms.retry_for_s, _GIVE_BACK_FOR_S))
    yield from exchange(leasecalls.release(lease_id), terms)


def not_given_back(watch: Watch, wish: LeaseWish, terms: Terms, error: Exception) -> str:
    """What to log when a lock could not be released at the end of its block."""
    ends = _ENDS[wish.owner].format(id=watch.lease.id)
    why = str(error)
    if isinstance(error, Unavailable) and error.status is None:
        why = f"no daemon answers at {terms.address}"
        fate = "the session is free" if watch.lease.kind == "session" else "the lock ends by itself in time"
        ends = f"if the daemon has ended, {fate}, else {ends}"
    return f"{watch.what} ({watch.lease.id}) could not be given back at the end of its block: {why}; {ends}"


class Listening:
    """How long an iteration over messages goes on: until none came for `idle_s`; None is for ever."""

    def __init__(self, terms: Terms, idle_s: float | None) -> None:
        self._now = terms.clock
        self._idle_s = idle_s
        self._over_at = None if idle_s is None else terms.clock() + idle_s

    def slice_s(self) -> float:
        """How long the next request waits for a message: the iteration is stopped between two of them."""
        return _LISTEN_S if self._over_at is None else min(_LISTEN_S, max(0.0, self._over_at - self._now()))

    def goes_on(self, *, received: bool) -> bool:
        """Whether to go on after a request, which `received` messages or did not."""
        if self._idle_s is None or self._over_at is None:
            return True
        if received:
            self._over_at = self._now() + self._idle_s
        return received or self._over_at - self._now() >= _SOON_S


def _forget(lease_id: str, terms: Terms) -> Plan[None]:
    try:
        yield from exchange(leasecalls.release(lease_id, forget=True), terms)
    except RenewerApiError:
        return  # with its owner gone it goes by itself


def _register(wish: LeaseWish, terms: Terms) -> Plan[Lease | Conflict]:
    """A lease of our own, or that somebody else's is in the way."""
    try:
        registered: leasecalls.Registered = yield from exchange(
            leasecalls.register_lease(wish, wait_s=0.0, idempotency_key=new_key()), terms
        )
    except Conflict as error:
        if error.lease_id is None:
            raise
        return error
    return registered.lease if registered.created else _taken(registered.lease)


def _taken(lease: Lease) -> Conflict:
    """The lock is kept already, though not for us."""
    what = f"session {lease.session_id!r}" if lease.kind == "session" else "this message"
    message = f"{what} of {lease.entity} is kept already, by {lease.id} (owner {lease.owner.kind})"
    return Conflict(message, problem={"lease": lease.id})


def _too_late(wish: LeaseWish, wait_s: float | None, why: object) -> str:
    what = f"session {wish.session_id!r}" if wish.session_id is not None else f"a {wish.kind}"
    return f"{what} of {wish.entity} could not be had in {wait_s or 0.0:g} s" + (f": {why}" if why else "")
