"""Settling the message whose lock a lease is on: renewals stop first, and go on if nothing came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from renewer.core.events import LeaseNotSettled, LeaseSettled, LeaseSettling, LinkLost
from renewer.core.states import LossReason, MessageFate
from renewer.errors import ConflictError, LeaseLostError, MessageSettledError, TransientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.core.events import Event
    from renewer.core.leases import Lease
    from renewer.ports import LeaseTarget, Settlement

_LONGEST_S = 10.0
_SHORTEST_S = 1.0


async def settle_message(
    lease: Lease, settlement: Settlement, target: LeaseTarget, post: Callable[[Event], None], now: float
) -> None:
    """Settle it, which ends the lease. Raises what `LeaseTarget.settle` does; the lease then stands as it should.

    An answer is waited for through half of what remains of the lock: the other half is for finding out.
    """
    if lease.is_settling:
        raise ConflictError("the message is being settled already; look at the lease to see what came of it")
    spec, epoch, fate = lease.spec, lease.epoch, settlement.fate
    patience_s = min(max((lease.expires_at - now) / 2, _SHORTEST_S), _LONGEST_S)
    post(LeaseSettling(spec.id, epoch))
    try:
        with anyio.fail_after(patience_s):
            await target.settle(spec, epoch, settlement)
    except TimeoutError as error:
        raise TransientError(
            f"no answer within {patience_s:.3g} s: it is not known whether the message was {fate.value}",
            kind="timeout",
            is_unknown=True,
        ) from error
    except MessageSettledError as error:
        post(LeaseSettled(spec.id, epoch, MessageFate(error.fate)))
        raise
    except LeaseLostError as error:
        post(LinkLost(spec.id, epoch, LossReason(error.reason), str(error)))
        raise
    else:
        post(LeaseSettled(spec.id, epoch, fate))
    finally:
        # Changes nothing where it is known by now.
        post(LeaseNotSettled(spec.id, epoch))
