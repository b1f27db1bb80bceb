"""Pools: next available sessions that are accepted before a worker asks, each for whoever asks next.

A pool keeps so many leases of one entity. A free one is the pool's; one that a worker has taken is that worker's in
every way (its owner, its terms, its end), and only counts. When it is over the pool accepts the next session. A free
session that nobody has taken for a while is given back, because somebody else may want it, and the next is accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import anyio
import structlog

from renewer.api.control import PoolReading
from renewer.core.effects import LeaseNews
from renewer.core.events import (
    ForgetRequested,
    LeaseHandedOver,
    LeaseRegistered,
    LeaseReleaseRequested,
    LeaseRestored,
    LeaseRevised,
)
from renewer.core.states import LeaseKind, LeaseState, is_over
from renewer.daemon.configured import request_of
from renewer.daemon.registrar import POOLED, Registrar
from renewer.errors import AdmissionError

if TYPE_CHECKING:
    from anyio.abc import TaskStatus

    from renewer.config import SessionSettings
    from renewer.core.effects import TellLease, TellOperation
    from renewer.core.leases import Lease
    from renewer.core.model import LeaseId, LeaseSpec
    from renewer.core.past import LeasePast
    from renewer.daemon.supervisor import Supervisor
    from renewer.ports import Clock

DEFAULT_IDLE_S: Final = 60.0
"""How long a session may wait for a worker, unless its section says otherwise."""

_KEPT_S: Final = 10.0
"""How long it can still be seen that a session was given back that nobody had taken."""

_MAX_SLEEP_S: Final = 5.0

_RETRY_S: Final = 5.0

_log = structlog.get_logger("renewer.daemon")


@dataclass(slots=True)
class Pool:
    """One pool. `terms` is a lease as it is while it is free; `leases` are those that live, as far as was noticed."""

    terms: Callable[[], LeaseSpec]
    name: str
    target: str
    size: int
    idle_s: float
    leases: dict[LeaseId, None] = field(default_factory=dict)


class SessionPools:
    """All pools. It is a hook, so that it knows at once when a place in a pool has become free.

    `may_begin` is asked before anything is accepted: a daemon that takes no new work has no use for free sessions.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        registrar: Registrar,
        clock: Clock,
        *,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        self._supervisor = supervisor
        self._registrar = registrar
        self._clock = clock
        self._may_begin = may_begin
        self._pools: dict[tuple[str, str], Pool] = {}
        self._work = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Fill places that have become free, and give back what nobody takes, until cancelled."""
        task_status.started()
        while True:
            self._work = anyio.Event()
            now = self._clock.now()
            idle_at = [now + _MAX_SLEEP_S]
            for pool in self._pools.values():
                self._give_back(pool, now)
                self._fill(pool)
                idle_at += [at for lease in self._free(pool) if (at := _idle_at(pool, lease)) is not None]
            with anyio.move_on_after(min(idle_at) - now):
                await self._work.wait()

    def apply(self, sections: Sequence[SessionSettings], before: Sequence[tuple[LeaseSpec, LeasePast]] = ()) -> None:
        """Have exactly the pools of these sections. `before` are what was free in them in an earlier run.

        A pool that has shrunk, or is gone, gives back what is free; what a worker has taken stays the worker's.
        """
        old, self._pools = self._pools, {}
        for section in sections:
            if section.sessions is not None:
                pool = self._pool_of(section)
                self._pools[_key(pool.target, section.entity)] = pool
        for lease in list(self._supervisor.scheduler.leases()):
            if "pool" not in lease.spec.context or is_over(lease.state):
                continue
            found = self._pools.get(_key(lease.spec.target, lease.spec.entity))
            if found is not None:
                found.leases[lease.spec.id] = None
                if _is_free(lease):
                    self._revise(found, lease)
            elif _is_free(lease):
                self._supervisor.post(LeaseReleaseRequested(lease.spec.id))
        for spec, past in before:
            if spec.context.get("origin") == POOLED:
                self._go_on(spec, past)
        for key, pool in self._pools.items():
            self._fill(pool)
            if key not in old:
                _log.info("pool opened", target=pool.target, entity=pool.name, sessions=pool.size)
        self._work.set()

    def covers(self, spec: LeaseSpec) -> bool:
        """Whether who asks for this lease is given one of a pool: for any session, or for one that is free there."""
        pool = self._pool_for(spec)
        return pool is not None and (spec.session_id is None or bool(self._named(pool, spec)))

    def take(self, wanted: LeaseSpec) -> LeaseSpec:
        """Hand a lease of the pool to whoever wants one like this: the one held for longest, else one on its way.

        Returns it as it is kept from now on. AdmissionError when none can be had.
        """
        pool = self._pool_for(wanted)
        if pool is None:
            raise KeyError(wanted.entity)
        self._fill(pool)
        free = self._free(pool) if wanted.session_id is None else self._named(pool, wanted)
        if not free:
            raise AdmissionError(self._why_none(pool), retry_after_s=_RETRY_S)
        lease = min(free, key=_preference)
        terms = pool.terms()
        asked = {**terms.context.get("asked", {}), **wanted.context.get("asked", {})}
        spec = replace(
            wanted,
            id=lease.spec.id,
            entity=lease.spec.entity,
            lock_duration_s=terms.lock_duration_s if wanted.lock_duration_s is None else wanted.lock_duration_s,
            context={**wanted.context, "asked": asked, "pool": pool.name},
        )
        spec = self._registrar.with_policy(spec)
        self._registrar.note(spec)
        self._supervisor.post(LeaseHandedOver(spec))
        return spec

    def readings(self) -> list[PoolReading]:
        """Every pool as it is now."""
        readings: list[PoolReading] = []
        for pool in self._pools.values():
            living = self._living(pool)
            taken = sum(not _is_free(lease) for lease in living)
            states = Counter(lease.state for lease in living if _can_be_taken(lease))
            held, acquiring = states[LeaseState.HELD], states[LeaseState.ACQUIRING]
            readings.append(PoolReading(pool.target, pool.name, pool.size, held, acquiring, taken))
        return readings

    def lease(self, news: TellLease) -> None:
        """A lease that is over leaves its place in the pool."""
        if "pool" in news.spec.context and (news.final or news.news is LeaseNews.ACQUIRED):
            self._work.set()

    def renewed(self, news: Sequence[TellLease]) -> None:
        """They stay in their places."""

    def operation(self, news: TellOperation) -> None:
        """Operations are of no pool."""

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _pool_of(self, section: SessionSettings) -> Pool:
        request = request_of(section)

        def terms() -> LeaseSpec:
            spec = self._registrar.lease(request, origin=POOLED)
            # Nobody's work hangs on a free one: if it is lost the next one will do.
            policy = replace(spec.policy, reacquire=True, max_duration_s=None, retention_s=_KEPT_S)
            return replace(spec, context={**spec.context, "pool": section.entity}, policy=policy)

        idle_s = DEFAULT_IDLE_S if section.idle_timeout is None else section.idle_timeout.total_seconds()
        return Pool(terms, section.entity, terms().target, section.sessions or 0, idle_s)

    def _pool_for(self, spec: LeaseSpec) -> Pool | None:
        return self._pools.get(_key(spec.target, spec.entity)) if spec.kind is LeaseKind.SESSION else None

    def _named(self, pool: Pool, wanted: LeaseSpec) -> list[Lease]:
        """The very session, if it is free here: nobody could have it from the broker while the pool does."""
        held = (lease for lease in self._free(pool) if lease.state is LeaseState.HELD)
        return [lease for lease in held if lease.session_id == wanted.session_id]

    def _why_none(self, pool: Pool) -> str:
        taken = sum(not _is_free(lease) for lease in self._living(pool))
        if taken < pool.size:
            return (
                f"{taken} of the {pool.size} sessions of the pool for {pool.name} are taken, and whether the others "
                "are still held is not known; ask again in a moment"
            )
        return (
            f"all {pool.size} sessions of the pool for {pool.name} are taken; ask again when a worker is done, or "
            "raise sessions in its [[session]]"
        )

    def _living(self, pool: Pool) -> list[Lease]:
        """What lives of the pool; what does not is let go of."""
        found = map(self._supervisor.scheduler.lease, pool.leases)
        living = [lease for lease in found if lease is not None and not is_over(lease.state)]
        pool.leases = dict.fromkeys(lease.spec.id for lease in living)
        return living

    def _free(self, pool: Pool) -> list[Lease]:
        return [lease for lease in self._living(pool) if _can_be_taken(lease)]

    def _fill(self, pool: Pool) -> None:
        living = self._living(pool)
        surplus = len(living) - pool.size
        if surplus > 0:
            self._shrink((lease for lease in living if _is_free(lease)), surplus)
        elif surplus < 0 and self._may_begin():
            for _ in range(-surplus):
                spec = pool.terms()
                pool.leases[spec.id] = None
                self._supervisor.post(LeaseRegistered(spec))

    def _shrink(self, free: Iterable[Lease], surplus: int) -> None:
        last_first = sorted(free, key=_preference, reverse=True)
        for lease in last_first[:surplus]:
            self._supervisor.post(LeaseReleaseRequested(lease.spec.id))

    def _give_back(self, pool: Pool, now: float) -> None:
        """What nobody takes; all that is free where nobody may take any."""
        for lease in self._free(pool):
            idle_at = _idle_at(pool, lease)
            if not self._may_begin():
                self._supervisor.post(LeaseReleaseRequested(lease.spec.id))
            elif idle_at is not None and idle_at <= now:
                _log.info("session given back", lease=lease.spec.id, entity=pool.name, idle_s=round(pool.idle_s, 3))
                self._supervisor.post(LeaseReleaseRequested(lease.spec.id))

    def _revise(self, pool: Pool, lease: Lease) -> None:
        spec = replace(pool.terms(), id=lease.spec.id)
        if spec != lease.spec:
            self._supervisor.post(LeaseRevised(spec))

    def _go_on(self, spec: LeaseSpec, past: LeasePast) -> None:
        pool = self._pools.get(_key(spec.target, spec.entity))
        is_wanted = pool is not None and len(pool.leases) < pool.size
        if pool is not None and is_wanted:
            spec = replace(pool.terms(), id=spec.id)
            pool.leases[spec.id] = None
        # Nobody had it, so that with the process that held it nothing was lost.
        self._supervisor.post(LeaseRestored(spec, replace(past, state=LeaseState.ACQUIRING)))
        if not is_wanted:
            self._supervisor.post(ForgetRequested(spec.id))


def _key(target: str, entity: str) -> tuple[str, str]:
    return target, entity.lower()


def _is_free(lease: Lease) -> bool:
    return lease.spec.context.get("origin") == POOLED


def _can_be_taken(lease: Lease) -> bool:
    """Whether it is free, and not at risk, lost or parked."""
    return _is_free(lease) and lease.state in (LeaseState.HELD, LeaseState.ACQUIRING) and not lease.is_parked


def _idle_at(pool: Pool, lease: Lease) -> float | None:
    """When nobody will have taken it for too long."""
    if lease.state is not LeaseState.HELD or lease.acquired_at is None:
        return None
    return lease.acquired_at + pool.idle_s


def _preference(lease: Lease) -> tuple[bool, float, int]:
    acquired_at = lease.acquired_at if lease.state is LeaseState.HELD else None
    return acquired_at is None, acquired_at or lease.registered_at, lease.number
