"""Going on after a restart: what the registry holds becomes what the core knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from renewer.core.events import LeaseRestored, OperationRestored
from renewer.core.states import is_over
from renewer.daemon.horizon import read_horizon
from renewer.daemon.records import read_lease, read_operation
from renewer.daemon.registrar import CONFIGURED, POOLED, Registrar
from renewer.errors import RegistryError
from renewer.ports import Entry, EntryKind, OperationTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from renewer.core.model import LeaseSpec
    from renewer.core.past import LeasePast
    from renewer.daemon.supervisor import Supervisor

_log = structlog.get_logger("renewer.registry")


@dataclass(slots=True)
class Restored:
    """What came back. `configured` are sessions that the configuration named: whether it still does is seen later."""

    leases: int = 0
    operations: int = 0
    unreadable: int = 0
    configured: list[tuple[LeaseSpec, LeasePast]] = field(default_factory=list)
    callbacks: int = 0


def restore(
    entries: Sequence[Entry],
    supervisor: Supervisor,
    registrar: Registrar,
    deliver: Callable[[Sequence[Entry]], None] = lambda _: None,
) -> Restored:
    """Have the core know what was registered before, and `deliver` the callbacks that are still to be delivered.

    What cannot be read is logged, and left where it is.
    """
    restored = Restored()
    timeline = supervisor.timeline()
    asked_until = max(
        (read_horizon(entry, timeline) for entry in entries if entry.kind is EntryKind.HORIZON), default=None
    )
    # First, so that what is told of the restart comes after what was told before.
    callbacks = [entry for entry in entries if entry.kind is EntryKind.CALLBACK]
    for entry in callbacks:
        supervisor.keeper.restored(entry)
    deliver(callbacks)
    restored.callbacks = len(callbacks)

    def target_of(account: str) -> OperationTarget | None:
        known = registrar.accounts.get(account)
        return None if known is None else known.target

    for entry in entries:
        try:
            match entry.kind:
                case EntryKind.LEASE:
                    lease, past = read_lease(entry, timeline)
                    if lease.context.get("origin") in (CONFIGURED, POOLED) and not is_over(past.state):
                        restored.configured.append((lease, past))
                        continue
                    registrar.note(lease)
                    supervisor.post(LeaseRestored(registrar.with_policy(lease), past))
                    restored.leases += 1
                case EntryKind.OPERATION:
                    operation, was = read_operation(entry, timeline, target_of, asked_until, registrar.poll_policy)
                    registrar.note(operation)
                    supervisor.post(OperationRestored(operation, was))
                    restored.operations += 1
                case EntryKind.CALLBACK | EntryKind.HORIZON:
                    continue
        except RegistryError as error:
            restored.unreadable += 1
            _log.error("record not read", kind=entry.kind.value, id=entry.id, detail=str(error))
    return restored
