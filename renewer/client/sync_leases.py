"""Leases, and locks held for the length of a block, for code that blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Literal, Unpack

from renewer.client import leasecalls, plans
from renewer.client.errors import RenewerApiError
from renewer.client.leasecalls import LeaseWish
from renewer.client.models import Lease, Page
from renewer.client.options import LeaseFilter, LeaseOptions, OwnerKind, check_options, kept, limit_s
from renewer.client.quantities import Duration, seconds
from renewer.client.sync_base import Base
from renewer.client.sync_session import MessageLock, Session, block


class LeaseMethods(Base):
    """The methods of `Client` that are about leases."""

    def lease_page(
        self,
        *,
        sort: Literal["registered", "remaining"] | None = None,
        limit: int | None = None,
        after: str | None = None,
        **wanted: Unpack[LeaseFilter],
    ) -> Page[Lease]:
        """One page of leases, `limit` (100) at most. Sorted by what remains, the nearest to expiry is first.

        Which are `wanted` is said by the names of `LeaseFilter`.
        """
        check_options("lease_page", wanted, LeaseFilter)
        return self._call(leasecalls.leases(sort=sort, limit=limit, after=after, **wanted))

    def leases(self, *, page_size: int | None = None, **wanted: Unpack[LeaseFilter]) -> Iterator[Lease]:
        """All leases, in the order of their registration, page after page; `wanted`: see `LeaseFilter`."""
        check_options("leases", wanted, LeaseFilter)
        wanted["state"] = kept(wanted.get("state", ()))
        return self._all(lambda after: leasecalls.leases(limit=page_size, after=after, **wanted))

    def lease(self, lease_id: str, *, wait: Duration = 0.0, until: Literal["settled", "over"] = "settled") -> Lease:
        """One lease; with `wait`, once it is no longer being acquired, or is over, or the time is."""
        return self._driver.run(plans.wait_lease(lease_id, until, self._terms, wait_s=seconds("wait", wait)))

    def hold(
        self,
        entity: str,
        session_id: str | None = None,
        *,
        kind: Literal["session", "message"] = "session",
        lock_token: str | None = None,
        locked_until_utc: datetime | None = None,
        sequence_number: int | None = None,
        reacquire: bool | None = None,
        owner: OwnerKind = "none",
        pid: int | None = None,
        wait: Duration = 0.0,
        idempotency_key: str | None = None,
        **options: Unpack[LeaseOptions],
    ) -> Lease:
        """Have a lock held until it is released; see `session` for a block of code.

        A lock that is kept already is found again where it was asked for in the same way and without an owner, else it
        is a `Conflict`. With `wait`, returns once it is known whether the lock could be had, or the time is over: look
        at its `state`. With `reacquire`, a session that was lost is acquired again, as a new epoch.
        `options` are those of `LeaseOptions`.
        """
        check_options("hold", options, LeaseOptions)
        wish = LeaseWish(
            entity,
            session_id,
            kind=kind,
            lock_token=lock_token,
            locked_until_utc=locked_until_utc,
            sequence_number=sequence_number,
            reacquire=reacquire,
            owner=owner,
            pid=pid,
            **options,
        )
        plan = plans.hold(wish, self._terms, wait_s=seconds("wait", wait), idempotency_key=idempotency_key)
        return self._driver.run(plan)

    def hold_all(
        self,
        entity: str,
        session_ids: Iterable[str],
        *,
        reacquire: bool | None = None,
        owner: OwnerKind = "none",
        pid: int | None = None,
        wait: Duration = 0.0,
        **options: Unpack[LeaseOptions],
    ) -> list[Lease | RenewerApiError]:
        """Have many sessions of one entity held, with few requests: `hold` for each, or the error that it would raise.

        With `wait`, returns once none of them is being acquired any longer, or the time is over.
        `options` are those of `LeaseOptions`.
        """
        check_options("hold_all", options, LeaseOptions)
        wishes = [
            LeaseWish(entity, session_id, reacquire=reacquire, owner=owner, pid=pid, **options)
            for session_id in session_ids
        ]
        return self._driver.run(plans.hold_all(wishes, self._terms, wait_s=seconds("wait", wait)))

    def release(self, lease_id: str) -> None:
        """Give a lock back; it is free when this returns. One that has ended already is no error."""
        self._call(leasecalls.release(lease_id))

    def renew(self, lease_id: str, *, timeout: Duration = 10.0) -> Lease:
        """Renew a lock now, without waiting for the daemon to find it due."""
        return self._call(leasecalls.renew(lease_id, timeout_s=seconds("timeout", timeout)))

    def heartbeat(self, lease_id: str) -> Lease:
        """Say that the owner of a lease lives."""
        return self._call(leasecalls.heartbeat(lease_id))

    def get_state(self, lease_id: str) -> bytes | None:
        """The state that a held session carries; None if there is none."""
        return self._call(leasecalls.get_state(lease_id))

    def set_state(self, lease_id: str, state: bytes | bytearray | str | None) -> None:
        """Replace the state that a held session carries; None clears it."""
        self._call(leasecalls.set_state(lease_id, state))

    def session(
        self,
        entity: str,
        session_id: str | None = None,
        *,
        owner: OwnerKind = "connection",
        on_lost: Callable[[Session, str, str], object] | None = None,
        on_at_risk: Callable[[Session, str], object] | None = None,
        reacquire: bool = False,
        wait: Duration | None = 60.0,
        **options: Unpack[LeaseOptions],
    ) -> AbstractContextManager[Session]:
        """Hold a session, or the next available one, for the length of a block.

        A session that somebody else has is waited for, `wait` at most (None: for ever), then it is a `Timeout`; one
        that cannot be had at all is `SessionLost` at once. Nobody is queued for a pool all of whose sessions are taken:
        that is `Refused` at once. When the lock is lost, `on_lost(session, reason, detail)` is called once, in a thread
        of its own; the next use of the session raises `SessionLost`, and so does leaving the block. When the lock may
        be gone, also because the daemon is, `on_at_risk(session, detail)` is called, and every use raises `LockAtRisk`
        until it has recovered. Leaving the block gives the session back. `options` are those of `LeaseOptions`.
        """
        check_options("session", options, LeaseOptions)
        wish = LeaseWish(entity, session_id, kind="session", reacquire=reacquire, owner=owner, **options)
        return block(self._driver, self._terms, wish, limit_s("wait", wait), Session, on_lost, on_at_risk)

    def message_lock(
        self,
        entity: str,
        lock_token: str,
        *,
        locked_until_utc: datetime | None = None,
        sequence_number: int | None = None,
        owner: OwnerKind = "connection",
        on_lost: Callable[[MessageLock, str, str], object] | None = None,
        on_at_risk: Callable[[MessageLock, str], object] | None = None,
        wait: Duration | None = 60.0,
        **options: Unpack[LeaseOptions],
    ) -> AbstractContextManager[MessageLock]:
        """Keep the lock of a peek-locked message for the length of a block; settle the message inside it.

        It may be settled by the lock's own `complete` and the like, or over the link that received it: with its
        `sequence_number` that is known for what it is, and no loss. Everything else is as for `session`, but that a
        loss raises `LockLost`, and that the lock is as good as ever while the daemon is away, until its time is over.
        `options` are those of `LeaseOptions`.
        """
        check_options("message_lock", options, LeaseOptions)
        wish = LeaseWish(
            entity,
            kind="message",
            lock_token=lock_token,
            locked_until_utc=locked_until_utc,
            sequence_number=sequence_number,
            reacquire=False,
            owner=owner,
            **options,
        )
        return block(self._driver, self._terms, wish, limit_s("wait", wait), MessageLock, on_lost, on_at_risk)
