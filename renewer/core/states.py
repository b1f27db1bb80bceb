"""The states of leases and operations, and what may follow what.

A **lease** begins `acquiring`. A grant makes it `held`. When its local deadline passes without an acknowledged renewal
it is `at_risk`: the owner must stop side effects, and the broker is asked again; its answer makes the lease `held`
again (told as *recovered*) or `lost`. Only the broker's word, a lost link, or the daemon's own decision to let go
makes a lease lost: a local clock alone never does. A message's lock also ends by its settlement, whoever settles it:
that is no loss, and the lease is `released`. A lease whose policy says so goes from a loss straight back to
`acquiring`, with a new epoch once it is granted; otherwise `lost` is the end. `released` is the end that was asked for.
A lease is *parked* when the daemon stops: given back to the broker, and `acquiring` again for whoever starts next.

An **operation** begins `accepted` (registered, its first request perhaps not yet answered), is `running` while the
service says so or says something that we do not know, `fetching` when the service is done and its result is being
fetched, and then ends in exactly one terminal state. A failed poll changes no state.
"""

from __future__ import annotations

from enum import StrEnum


class LeaseKind(StrEnum):
    """What is being kept."""

    SESSION = "session"
    MESSAGE = "message"


class OwnerKind(StrEnum):
    """How it is known that the owner of a lease lives."""

    NONE = "none"
    CONNECTION = "connection"
    HEARTBEAT = "heartbeat"
    PID = "pid"


class LeaseState(StrEnum):
    """Where a lease stands."""

    ACQUIRING = "acquiring"
    HELD = "held"
    AT_RISK = "at_risk"
    LOST = "lost"
    RELEASED = "released"


class LeaseSignal(StrEnum):
    """What happens to a lease; the column of the transition table."""

    GRANTED = "granted"
    OVERDUE = "overdue"
    LOST = "lost"
    LOST_FOR_GOOD = "lost_for_good"
    PARKED = "parked"
    RELEASED = "released"


class LossReason(StrEnum):
    """Why a lease is no longer ours."""

    EXPIRED = "expired"
    DETACHED = "detached"
    CONNECTION_LOST = "connection_lost"
    UNAUTHORIZED = "unauthorized"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    MAX_DURATION = "max_duration"
    OWNER_GONE = "owner_gone"
    ENTITY_GONE = "entity_gone"


class MessageFate(StrEnum):
    """What became of a message, where that ended the lease on its lock."""

    COMPLETED = "completed"
    ABANDONED = "abandoned"
    DEFERRED = "deferred"
    DEAD_LETTERED = "dead-lettered"
    ELSEWHERE = "settled elsewhere"
    """Somebody else settled it, and there is no telling how."""


class OperationState(StrEnum):
    """Where an operation stands."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    FETCHING = "fetching"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"
    TIMED_OUT = "timed_out"
    UNPOLLABLE = "unpollable"
    REJECTED = "rejected"


LEASE_TRANSITIONS: dict[LeaseState, dict[LeaseSignal, LeaseState]] = {
    LeaseState.ACQUIRING: {
        LeaseSignal.GRANTED: LeaseState.HELD,
        LeaseSignal.LOST_FOR_GOOD: LeaseState.LOST,
        LeaseSignal.PARKED: LeaseState.ACQUIRING,
        LeaseSignal.RELEASED: LeaseState.RELEASED,
    },
    LeaseState.HELD: {
        LeaseSignal.GRANTED: LeaseState.HELD,
        LeaseSignal.OVERDUE: LeaseState.AT_RISK,
        LeaseSignal.LOST: LeaseState.ACQUIRING,
        LeaseSignal.PARKED: LeaseState.ACQUIRING,
        LeaseSignal.LOST_FOR_GOOD: LeaseState.LOST,
        LeaseSignal.RELEASED: LeaseState.RELEASED,
    },
    LeaseState.AT_RISK: {
        LeaseSignal.GRANTED: LeaseState.HELD,
        LeaseSignal.LOST: LeaseState.ACQUIRING,
        LeaseSignal.PARKED: LeaseState.ACQUIRING,
        LeaseSignal.LOST_FOR_GOOD: LeaseState.LOST,
        LeaseSignal.RELEASED: LeaseState.RELEASED,
    },
    LeaseState.LOST: {},
    LeaseState.RELEASED: {},
}

OPERATION_ENDS: frozenset[OperationState] = frozenset(
    {
        OperationState.SUCCEEDED,
        OperationState.FAILED,
        OperationState.CANCELED,
        OperationState.EXPIRED,
        OperationState.TIMED_OUT,
        OperationState.UNPOLLABLE,
        OperationState.REJECTED,
    }
)
"""How an operation can end."""

OPERATION_TRANSITIONS: dict[OperationState, frozenset[OperationState]] = {
    OperationState.ACCEPTED: frozenset(OperationState) - {OperationState.ACCEPTED},
    OperationState.RUNNING: OPERATION_ENDS - {OperationState.REJECTED}
    | {OperationState.RUNNING, OperationState.FETCHING},
    OperationState.FETCHING: frozenset({OperationState.SUCCEEDED}),
    **dict.fromkeys(OPERATION_ENDS, frozenset[OperationState]()),
}


def is_over(state: LeaseState | OperationState) -> bool:
    """Whether nothing can follow `state`."""
    return state in _OVER


_OVER: frozenset[LeaseState | OperationState] = frozenset(
    [
        *(lease_state for lease_state, follow in LEASE_TRANSITIONS.items() if not follow),
        *(operation_state for operation_state, follow in OPERATION_TRANSITIONS.items() if not follow),
    ]
)
