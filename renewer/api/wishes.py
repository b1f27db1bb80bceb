"""What a caller wants to have kept, as the daemon is asked for it; and what it means to wait for that."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from renewer.api.control import HoldRequest
from renewer.core.model import NO_OWNER, Owner
from renewer.core.states import LeaseState, OwnerKind, is_over

if TYPE_CHECKING:
    from renewer.api.control import Control, Idempotency
    from renewer.api.models import NewLease, NewOwner
    from renewer.core.leases import Lease

HEARTBEAT_TTL_S = 30.0
CONNECTION_GRACE_S = 1.0

_DEFAULT_S = {OwnerKind.HEARTBEAT: HEARTBEAT_TTL_S, OwnerKind.CONNECTION: CONNECTION_GRACE_S}


def hold_request(body: NewLease, idempotency: Idempotency | None) -> HoldRequest:
    """A lease as it was asked for."""
    return HoldRequest(
        servicebus=body.servicebus,
        entity=body.entity,
        kind=body.kind,
        session_id=body.session_id,
        lock_token=body.lock_token,
        locked_until=None if body.locked_until_utc is None else body.locked_until_utc.timestamp(),
        sequence_number=body.sequence_number,
        lock_duration_s=body.lock_duration,
        reacquire=body.reacquire,
        max_duration_s=body.max_duration,
        labels=body.labels,
        owner=_owner(body.owner),
        callback=body.callback,
        idempotency=idempotency,
    )


def owner_is_here(control: Control, lease: Lease) -> AbstractContextManager[None]:
    """While the registrar waits, its request is the connection of the owner, whose own is still to come."""
    if lease.spec.owner.kind is not OwnerKind.CONNECTION or is_over(lease.state):
        return nullcontext()
    return control.owner_connection(lease.spec.id, is_new=True)


def is_settled(lease: Lease) -> bool:
    """Whether it is known that the lock could be had, or could not."""
    return lease.state is not LeaseState.ACQUIRING


def _owner(asked: NewOwner | None) -> Owner:
    if asked is None:
        return NO_OWNER
    if asked.kind is OwnerKind.NONE:
        return NO_OWNER
    return Owner(asked.kind, _DEFAULT_S.get(asked.kind, 0.0) if asked.ttl is None else asked.ttl, asked.pid)
