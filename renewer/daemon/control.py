"""The daemon as the API sees it. Implements `renewer.api.Control`.

The parts stand in modules of their own: `admission` (what is taken on and acknowledged), `leasecontrol`,
`messagecontrol` and `operationcontrol`. Here they come together, with what is about the daemon itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

import renewer
from renewer.api.control import EventDocument, GatewayReading, PoolReading, StatusReading, TargetReading
from renewer.daemon.admission import Limits
from renewer.daemon.messagecontrol import MessageControl
from renewer.daemon.operationcontrol import OperationControl
from renewer.errors import ConflictError

if TYPE_CHECKING:
    from datetime import datetime

    from renewer.daemon.eventstream import EventStream
    from renewer.daemon.leasecontrol import Pools
    from renewer.daemon.registrar import Registrar
    from renewer.daemon.supervisor import Supervisor
    from renewer.daemon.waiting import Waiting
    from renewer.ports import Clock

__all__ = ["DaemonControl", "Limits", "Outlook"]

_SETTLED_S = 2.0
"""How long an answer waits for the registry before it is given all the same."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the daemon can tell of itself, for `status`."""

    started_at: datetime
    targets: Callable[[], Sequence[TargetReading]] = lambda: ()
    loop_lag_s: Callable[[], float] = lambda: 0.0
    registry: str = "memory"
    pools: Callable[[], Sequence[PoolReading]] = lambda: ()
    gateways: Callable[[], Sequence[GatewayReading]] = lambda: ()
    trouble: Callable[[], Sequence[str]] = lambda: ()


class DaemonControl(MessageControl, OperationControl):
    """`renewer.api.Control` over the supervisor."""

    def __init__(
        self,
        supervisor: Supervisor,
        clock: Clock,
        waiting: Waiting,
        stream: EventStream,
        registrar: Registrar,
        *,
        limits: Limits,
        outlook: Outlook,
        pools: Pools | None = None,
    ) -> None:
        super().__init__(supervisor, clock, waiting, registrar, limits=limits, pools=pools)
        self._stream = stream
        self._outlook = outlook

    @property
    def clock(self) -> Clock:
        """The daemon's clocks."""
        return self._clock

    def status(self) -> StatusReading:
        """Everything about the daemon itself."""
        leases = list(self.leases())
        margins = [lease.min_margin_s for lease in leases if lease.min_margin_s is not None]
        trouble = list(self._outlook.trouble())
        if self._keeper.trouble is not None:
            trouble.append(self._keeper.trouble)
        return StatusReading(
            version=renewer.__version__,
            state=self.state,
            started_at=self._outlook.started_at,
            leases=Counter(lease.state.value for lease in leases),
            operations=Counter(operation.state.value for operation in self.operations()),
            losses=sum(lease.losses for lease in leases),
            min_margin_s=min(margins, default=None),
            max_leases=self.limits.leases,
            max_operations=self.limits.operations,
            loop_lag_s=self._outlook.loop_lag_s(),
            registry=self._outlook.registry,
            targets=self._outlook.targets(),
            pools=self._outlook.pools(),
            gateways=self._outlook.gateways(),
            trouble=trouble,
        )

    async def drain(self, *, enabled: bool, park: bool) -> None:
        """Take no new work (or take it again). With `park`, give every lease back."""
        if self.state == "stopping":
            raise ConflictError("the daemon is stopping")
        self.state = "draining" if enabled else "ready"
        if enabled and park:
            await self._supervisor.park_all()
            await self._keeper.flush()
        elif not enabled:
            self._supervisor.unpark_all()

    async def settled(self, key: str | None = None) -> None:
        """Return when what is known of this lease or operation, or of all, is stored or cannot be; soon in any case."""
        with anyio.move_on_after(_SETTLED_S):
            if key is None:
                await self._keeper.flush()
            else:
                # Again if it changed meanwhile: what is shown next must be what is stored.
                while self._keeper.is_pending(key) and await self._keeper.durable(key):
                    pass

    def events(
        self,
        *,
        after: str | None = None,
        wanted: Callable[[str, str], bool] | None = None,
        subjects: Collection[str] | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[EventDocument]]:
        """Events as they happen; see `renewer.api.Control`."""
        return self._stream.subscribe(after, wanted, subjects=subjects)
