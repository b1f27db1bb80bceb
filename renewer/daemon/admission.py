"""What is taken on, and what is acknowledged: the same for leases and operations.

1. Nothing new is taken on while the daemon drains or stops, while it cannot be stored, or beyond the limits.
2. What was asked for is acknowledged once it is stored; what cannot be stored is not taken on.
3. What was let go is acknowledged once that is stored, for a restart would bring it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from renewer.core.events import ForgetRequested
from renewer.errors import AdmissionError, RegistryError

if TYPE_CHECKING:
    from renewer.core.model import LeaseSpec, OperationSpec
    from renewer.daemon.registrar import Registrar
    from renewer.daemon.supervisor import Supervisor
    from renewer.daemon.waiting import Waiting
    from renewer.ports import Clock

FULL_RETRY_S: Final = 5.0
"""When to ask again where all places are taken."""

_DRAINING_RETRY_S: Final = 30.0


@dataclass(slots=True)
class Limits:
    """How many leases and operations that live are taken on; may be changed while the daemon runs."""

    leases: int = 20_000
    operations: int = 20_000


class Admission:
    """Takes on, acknowledges and forgets, for the parts of the control that build on it."""

    def __init__(
        self, supervisor: Supervisor, clock: Clock, waiting: Waiting, registrar: Registrar, *, limits: Limits
    ) -> None:
        self.limits = limits
        self.registrar = registrar
        self.state: Literal["ready", "draining", "stopping"] = "ready"
        self._supervisor = supervisor
        self._keeper = supervisor.keeper
        self._clock = clock
        self._waiting = waiting

    def _admit_now(self) -> None:
        if self.state != "ready":
            raise AdmissionError(f"the daemon is {self.state}: it takes no new work", retry_after_s=_DRAINING_RETRY_S)
        if self._keeper.trouble is not None:
            raise RegistryError(f"not registered, because it cannot be stored: {self._keeper.trouble}")

    def _admit(self, living: int, limit: int, setting: str) -> None:
        self._admit_now()
        if living >= limit:
            raise AdmissionError(
                f"{living} are kept already, the most that [api] {setting} allows", retry_after_s=FULL_RETRY_S
            )

    async def _found(self, key: str) -> None:
        """Another's registration may still be on its way to the registry; it is not acknowledged before that one is."""
        self._check_found(key, is_stored=await self._keeper.durable(key))

    async def _stored(self, spec: LeaseSpec | OperationSpec) -> None:
        self._check_stored(spec, is_stored=await self._keeper.durable(spec.id))

    def _check_found(self, key: str, *, is_stored: bool) -> None:
        if not is_stored and not self._supervisor.knows(key):
            raise RegistryError(f"not registered, because it cannot be stored: {self._why()}")

    def _check_stored(self, spec: LeaseSpec | OperationSpec, *, is_stored: bool) -> None:
        if is_stored:
            return
        why = self._why()
        # What cannot be stored is not taken on: after a crash nobody would know of it.
        self._forget(spec)
        raise RegistryError(f"not registered, because it cannot be stored: {why}")

    async def _ended(self, key: str) -> None:
        if not await self._keeper.durable(key):
            raise RegistryError(
                f"it was let go, but after a restart it would be back, because that cannot be stored: {self._why()}"
            )

    def _forget(self, spec: LeaseSpec | OperationSpec) -> None:
        self.registrar.drop(spec)
        self._supervisor.post(ForgetRequested(spec.id))

    def _why(self) -> str:
        return self._keeper.trouble or "see the log"
