"""What is kept of leases and operations: from the core's values to JSON and back.

Instants are stored as they are, monotonic, together with both clocks and the boot they belong to. Within one boot the
monotonic clock goes on from process to process, so that a wall clock that was stepped in between changes nothing; after
another boot the time that has passed is taken from the wall clock.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from renewer.api.documents import to_json
from renewer.core.model import NO_OWNER, LeaseId, LeaseSpec, OperationId, OperationSpec, Owner, Result
from renewer.core.past import LeasePast, Loss, OperationPast
from renewer.core.states import LeaseKind, LeaseState, LossReason, MessageFate, OperationState, OwnerKind
from renewer.core.timing import PollPolicy
from renewer.core.values import value
from renewer.errors import RegistryError
from renewer.ports import Entry, EntryKind

if TYPE_CHECKING:
    from renewer.core.leases import Lease
    from renewer.core.operations import Operation
    from renewer.ports import Clock, OperationTarget

_VERSION = 1


def boot_id() -> str:
    """What names the present boot of the machine; "" where there is no telling."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


@value
class Timeline:
    """The clocks of this run, read together; carries instants of an earlier run over."""

    boot: str
    now: float
    wall: float

    @classmethod
    def read(cls, clock: Clock, boot: str) -> Timeline:
        """Both clocks as they are now."""
        return cls(boot, clock.now(), clock.utc_now().timestamp())

    def mark(self) -> dict[str, Any]:
        """What a record carries, so that its instants can be understood later."""
        return {"boot": self.boot, "now": self.now, "wall": self.wall}

    def carry(self, mark: Mapping[str, Any]) -> Callable[[float | None], float | None]:
        """Turns instants of a record with this mark into instants of this run."""
        then, wall = float(mark["now"]), float(mark["wall"])
        if self.boot and mark["boot"] == self.boot and then <= self.now:
            return lambda at: at
        passed_s = max(0.0, self.wall - wall)
        return lambda at: None if at is None else at - then + self.now - passed_s


def lease_entry(lease: Lease, timeline: Timeline) -> Entry:
    """All of a lease that must survive the daemon."""
    spec = lease.spec
    loss = lease.last_loss
    return Entry(
        EntryKind.LEASE,
        spec.id,
        lease.number,
        {
            "v": _VERSION,
            "clock": timeline.mark(),
            "target": spec.target,
            "entity": spec.entity,
            "kind": str(spec.kind),
            "session_id": spec.session_id,
            "lock_token": spec.lock_token,
            "sequence_number": spec.sequence_number,
            "lock_duration_s": spec.lock_duration_s,
            "labels": dict(spec.labels),
            "owner": _NOBODY if spec.owner is NO_OWNER else _owner_document(spec.owner),
            "context": dict(spec.context),
            "state": str(lease.state),
            "registered_at": lease.registered_at,
            "epoch": lease.epoch,
            "held_session_id": lease.session_id,
            "expires_at": lease.expires_at if lease.epoch else None,
            "duration_s": lease.duration_s,
            "losses": lease.losses,
            "last_loss": None
            if loss is None
            else {"epoch": loss.epoch, "reason": loss.reason.value, "detail": loss.detail, "at": loss.at},
            "last_error": lease.last_error,
            "fate": None if lease.fate is None else lease.fate.value,
            "forget_at": lease.forget_at,
        },
    )


def _owner_document(owner: Owner) -> dict[str, Any]:
    return {
        "kind": owner.kind.value,
        "ttl_s": owner.ttl_s,
        "pid": owner.pid,
        "pid_started": owner.pid_started,
    }


_NOBODY = _owner_document(NO_OWNER)


def read_lease(entry: Entry, timeline: Timeline) -> tuple[LeaseSpec, LeasePast]:
    """A lease from its record; its policy is not kept, but follows anew. `RegistryError` if it cannot be read."""
    try:
        document = _of_known_version(entry)
        carry = timeline.carry(document["clock"])
        owner = dict(document["owner"])
        if owner.get("pid") is not None and timeline.boot and document["clock"]["boot"] != timeline.boot:
            # No process outlives its boot, and one that was hidden from us (ProtectProc=) is known by number alone.
            owner["pid_started"] = -1
        loss = document["last_loss"]
        spec = LeaseSpec(
            id=LeaseId(entry.id),
            target=str(document["target"]),
            entity=str(document["entity"]),
            kind=LeaseKind(document["kind"]),
            session_id=document["session_id"],
            lock_token=document["lock_token"],
            sequence_number=document.get("sequence_number"),
            lock_duration_s=document["lock_duration_s"],
            labels=dict(document["labels"]),
            owner=Owner(**{**owner, "kind": OwnerKind(owner["kind"])}),
            context=dict(document["context"]),
        )
        past = LeasePast(
            number=entry.number,
            state=LeaseState(document["state"]),
            registered_at=cast("float", carry(float(document["registered_at"]))),
            epoch=int(document["epoch"]),
            session_id=document["held_session_id"],
            expires_at=carry(document["expires_at"]),
            duration_s=float(document["duration_s"]),
            losses=int(document["losses"]),
            last_loss=None
            if loss is None
            else Loss(
                int(loss["epoch"]), LossReason(loss["reason"]), str(loss["detail"]), cast("float", carry(loss["at"]))
            ),
            last_error=document["last_error"],
            fate=None if document.get("fate") is None else MessageFate(document["fate"]),
            forget_at=carry(document["forget_at"]),
        )
        return spec, past
    except _UNREADABLE as error:
        raise _unreadable(entry, error) from error


def operation_entry(operation: Operation, timeline: Timeline, target: OperationTarget | None) -> Entry:
    """All of an operation that must survive the daemon.

    Without a target (its account is not configured any longer) request and ticket are still as they were read.
    """
    spec = operation.spec
    result = operation.result
    return Entry(
        EntryKind.OPERATION,
        spec.id,
        operation.number,
        {
            "v": _VERSION,
            "clock": timeline.mark(),
            "account": spec.account,
            "request": spec.request if target is None or spec.request is None else target.dump_request(spec.request),
            "ticket": operation.ticket if target is None else target.dump_ticket(operation.ticket),
            "retry_safe": spec.retry_safe,
            "labels": dict(spec.labels),
            "context": dict(spec.context),
            "state": operation.state.value,
            "registered_at": operation.registered_at,
            "was_asking": operation.is_asking,
            "status": operation.status,
            "polls": operation.polls,
            "poll_errors": operation.poll_errors,
            "retry_after_s": operation.retry_after_s,
            "percent_complete": operation.percent_complete,
            "service_started_at": operation.service_started_at,
            "service_updated_at": operation.service_updated_at,
            # The service's own document, which may hold what is no JSON to others, such as 1e999.
            "error": None if operation.error is None else json.loads(to_json(dict(operation.error))),
            "last_poll_error": operation.last_poll_error,
            "result": None
            if result is None
            else {
                "kind": result.kind,
                "content_type": result.content_type,
                "problem": result.problem,
                "size": result.size,
            },
            "next_attempt_at": operation.next_attempt_at,
            "throttled_until": operation.throttled_until,
            "ended_at": operation.ended_at,
        },
    )


def read_operation(
    entry: Entry,
    timeline: Timeline,
    target_of: Callable[[str], OperationTarget | None],
    asked_until: float | None = None,
    policy_of: Callable[[str, Mapping[str, Any]], PollPolicy] = lambda _account, _context: PollPolicy(),
) -> tuple[OperationSpec, OperationPast]:
    """An operation from its record; its policy is not kept, but follows anew from its account and its context.

    A poll that was due by `asked_until` may have been sent.

    Where the account is not configured any longer, request and ticket stay as they were read. `RegistryError` if the
    record cannot be read.
    """
    try:
        document = _of_known_version(entry)
        carry = timeline.carry(document["clock"])
        account, context = str(document["account"]), dict(document["context"])
        target = target_of(account)
        request, ticket = document["request"], document["ticket"]
        result = document["result"]
        spec = OperationSpec(
            id=OperationId(entry.id),
            account=account,
            request=request if target is None or request is None else target.load_request(request),
            retry_safe=bool(document["retry_safe"]),
            policy=policy_of(account, context),
            labels=dict(document["labels"]),
            context=context,
        )
        next_attempt_at = carry(document["next_attempt_at"])
        was_due = asked_until is not None and next_attempt_at is not None and next_attempt_at <= asked_until
        past = OperationPast(
            number=entry.number,
            state=OperationState(document["state"]),
            registered_at=cast("float", carry(float(document["registered_at"]))),
            was_asking=bool(document["was_asking"]) or (was_due and document["state"] == OperationState.RUNNING),
            status=document["status"],
            ticket=ticket if target is None else target.load_ticket(ticket),
            polls=int(document["polls"]),
            poll_errors=int(document["poll_errors"]),
            retry_after_s=document["retry_after_s"],
            percent_complete=document["percent_complete"],
            service_started_at=document.get("service_started_at"),
            service_updated_at=document.get("service_updated_at"),
            error=document["error"],
            last_poll_error=document["last_poll_error"],
            result=None
            if result is None
            else Result(
                kind=result["kind"],
                content_type=result["content_type"],
                problem=result["problem"],
                stored_size=int(result["size"]),
            ),
            next_attempt_at=next_attempt_at,
            throttled_until=carry(document.get("throttled_until")),
            ended_at=carry(document["ended_at"]),
        )
        return spec, past
    except _UNREADABLE as error:
        raise _unreadable(entry, error) from error


def _of_known_version(entry: Entry) -> Mapping[str, Any]:
    version = entry.document["v"]
    if version != _VERSION:
        raise RegistryError(f"{entry.kind} {entry.id} was stored in form {version}; this version knows {_VERSION}")
    return entry.document


_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError)
"""What reading a record raises that was not written by us."""


def _unreadable(entry: Entry, error: Exception) -> RegistryError:
    return RegistryError(f"{entry.kind} {entry.id} cannot be read from the registry: {error!r}")
