"""The sessions that the configuration names: held from the start, and in step with it after a reload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from renewer.api.control import HoldRequest
from renewer.core.events import ForgetRequested, LeaseRegistered, LeaseReleaseRequested, LeaseRestored, LeaseRevised
from renewer.core.states import is_over
from renewer.daemon.registrar import CONFIGURED, Registrar

if TYPE_CHECKING:
    from renewer.config import SessionSettings
    from renewer.core.model import LeaseId, LeaseSpec
    from renewer.core.past import LeasePast
    from renewer.daemon.supervisor import Supervisor

_log = structlog.get_logger("renewer.daemon")


class ConfiguredSessions:
    """Holds what the configuration names, and lets go of what it does not name any longer; pools see to themselves."""

    def __init__(self, supervisor: Supervisor, registrar: Registrar) -> None:
        self._supervisor = supervisor
        self._registrar = registrar
        self._held: list[tuple[HoldRequest, LeaseId]] = []

    def apply(self, sections: Sequence[SessionSettings], before: Sequence[tuple[LeaseSpec, LeasePast]] = ()) -> None:
        """Have exactly these sessions held. `before` are those of an earlier run, which go on as what they were.

        One whose terms have changed is kept on the new ones, without being let go.
        """
        wanted = [request_of(section) for section in sections if section.sessions is None]
        # What has ended meanwhile, whoever ended it, is held anew.
        held, self._held = [item for item in self._held if self._lives(item[1])], []
        for is_same in (_is_equal, _is_same_lock):
            for request in list(wanted):
                kept = next((item for item in held if is_same(item[0], request)), None)
                if kept is not None:
                    wanted.remove(request)
                    held.remove(kept)
                    self._held.append((request, kept[1]))
                    if request != kept[0]:
                        self._revise(request, kept[1])
        for _, lease_id in held:
            self._supervisor.post(LeaseReleaseRequested(lease_id))
        past = [item for item in before if item[0].context.get("origin") == CONFIGURED]
        for request in wanted:
            spec = self._registrar.lease(request, origin=CONFIGURED)
            was = next((item for item in past if _is_on_same(item[0], spec)), None)
            if was is not None:
                past.remove(was)
                spec = replace(spec, id=was[0].id)
            if self._hold(spec, None if was is None else was[1]):
                self._held.append((request, spec.id))
        for spec, was_like in past:
            # Known for a moment, so that it is told that it is not any longer.
            self._supervisor.post(LeaseRestored(spec, was_like))
            self._supervisor.post(ForgetRequested(spec.id))

    def _lives(self, lease_id: LeaseId) -> bool:
        lease = self._supervisor.scheduler.lease(lease_id)
        return lease is not None and not is_over(lease.state)

    def _revise(self, request: HoldRequest, lease_id: LeaseId) -> None:
        spec = replace(self._registrar.lease(request, origin=CONFIGURED), id=lease_id)
        self._supervisor.post(LeaseRevised(spec))

    def _hold(self, spec: LeaseSpec, past: LeasePast | None) -> bool:
        """False if another lease lives on the same session; the next reload tries again."""
        on_same_lock = self._registrar.on_same_lock(spec)
        rival = None if on_same_lock is None else self._supervisor.scheduler.lease(on_same_lock)
        if rival is not None and not is_over(rival.state):
            _log.warning("session held already", lease=rival.spec.id, entity=spec.entity, session_id=spec.session_id)
            return False
        self._registrar.note(spec)
        self._supervisor.post(LeaseRegistered(spec) if past is None else LeaseRestored(spec, past))
        return True


def request_of(section: SessionSettings) -> HoldRequest:
    """What the section asks for, as a worker would."""
    lock_duration, max_duration = section.lock_duration, section.max_duration
    return HoldRequest(
        servicebus=section.servicebus,
        entity=section.entity,
        session_id=section.session_id,
        lock_duration_s=None if lock_duration is None else lock_duration.total_seconds(),
        reacquire=section.reacquire,
        max_duration_s=None if max_duration is None else max_duration.total_seconds(),
        labels=section.labels,
    )


def _is_equal(request: HoldRequest, other: HoldRequest) -> bool:
    return request == other


def _is_same_lock(request: HoldRequest, other: HoldRequest) -> bool:
    return (request.servicebus, request.entity.lower(), request.session_id) == (
        other.servicebus,
        other.entity.lower(),
        other.session_id,
    )


def _is_on_same(spec: LeaseSpec, other: LeaseSpec) -> bool:
    return (spec.target, spec.entity.lower(), spec.session_id) == (other.target, other.entity.lower(), other.session_id)
