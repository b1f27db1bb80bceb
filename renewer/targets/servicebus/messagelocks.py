"""Message locks of one namespace: each belongs to its token, whoever received the message, over whatever connection.

So there is nothing to attach and nothing to detach: a lease is acquired by renewing its lock once, and given back by
not renewing it any longer. A connection that breaks costs an attempt and no lease.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from renewer.core.model import Grant
from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, RemoteError, TransientError, UsageError
from renewer.targets.servicebus.locktokens import parse_lock_token
from renewer.targets.servicebus.managementops import read_expirations, renew_message_locks
from renewer.targets.servicebus.verdicts import copy_of, is_unusable

if TYPE_CHECKING:
    from uuid import UUID

    from renewer.core.model import LeaseId, LeaseSpec
    from renewer.targets.servicebus.durations import LockDurations
    from renewer.targets.servicebus.envelope import Template
    from renewer.targets.servicebus.lockclock import LockClock
    from renewer.targets.servicebus.routes import Routes


class MessageLocks:
    """The message locks that are kept."""

    def __init__(self, routes: Routes, durations: LockDurations) -> None:
        self._routes = routes
        self._durations = durations
        self._kept: dict[LeaseId, _Kept] = {}

    async def acquire(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Renew the lock for the first time.

        LeaseLostError when the broker says that it is gone, that there is no such entity, or that it does not renew
        message locks there, as where there are sessions.
        """
        kept = self._begin(spec, epoch)
        self._routes.enter(kept.entity)
        try:
            grant = await self._first(kept)
            rival = self._kept.get(spec.id)
            if rival is not None and rival.epoch > epoch:
                raise TransientError("the lease has been acquired meanwhile", kind="busy")
        except BaseException:
            self._routes.leave(kept.entity)
            raise
        self._forget(self._kept.get(spec.id))
        self._kept[spec.id] = kept
        return grant

    async def renew(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Renew the lock. LeaseLostError when the broker says that it is gone, or when it is kept as another epoch.

        One that is not kept here was kept before a restart: its token is all that it takes.
        """
        kept = self._kept.get(spec.id)
        if kept is None:
            return await self.acquire(spec, epoch)
        if kept.epoch != epoch:
            raise LeaseLostError("the lease is not held", reason=LossReason.DETACHED)
        try:
            return await self._renew(kept)
        except LeaseLostError:
            self._forget(kept)
            raise

    async def release(self, spec: LeaseSpec, epoch: int) -> None:
        """Stop renewing. The lock is its receiver's, who settles the message or lets the lock expire."""
        kept = self._kept.get(spec.id)
        if kept is not None and kept.epoch == epoch:
            self._forget(kept)

    def _begin(self, spec: LeaseSpec, epoch: int) -> _Kept:
        try:
            token = parse_lock_token(spec.lock_token)
        except UsageError as error:
            raise LeaseLostError(str(error), reason=LossReason.REFUSED) from error
        entity, lock = spec.entity.strip("/"), self._durations.begin(spec)
        ask = renew_message_locks(entity, [token], lock_s=lock.duration_s)
        return _Kept(spec.id, epoch, entity, token, lock, ask)

    async def _first(self, kept: _Kept) -> Grant:
        try:
            return await self._renew(kept)
        except TransientError as error:
            if is_unusable(error.condition):
                # Before anything was renewed: asking again changes nothing.
                raise LeaseLostError(str(error), reason=LossReason.REFUSED, condition=error.condition) from None
            raise

    async def _renew(self, kept: _Kept) -> Grant:
        try:
            reply = await self._routes.request(kept.entity, kept.ask)
            (locked_until,) = read_expirations(reply, 1)
        except RemoteError as error:
            raise copy_of(error, text=_without(kept.token, str(error))) from None
        self._durations.measure(kept.lock, locked_until, sent_at=reply.sent_at, received_at=reply.received_at)
        return Grant(anchored_at=reply.sent_at, duration_s=kept.lock.duration_s, locked_until=locked_until)

    def _forget(self, kept: _Kept | None) -> None:
        if kept is not None and self._kept.get(kept.lease_id) is kept:
            del self._kept[kept.lease_id]
            self._routes.leave(kept.entity)


class _Kept:
    """A message lock that is kept, and what it is known to be."""

    __slots__ = ("ask", "entity", "epoch", "lease_id", "lock", "token")

    def __init__(self, lease_id: LeaseId, epoch: int, entity: str, token: UUID, lock: LockClock, ask: Template) -> None:
        self.lease_id = lease_id
        self.epoch = epoch
        self.entity = entity
        self.token = token
        self.lock = lock
        self.ask = ask


def _without(token: UUID, text: str) -> str:
    """The broker's words, in which the token may be repeated."""
    return re.sub(f"{token}|{token.hex}|{token.bytes_le.hex()}", "<redacted>", text, flags=re.IGNORECASE)
