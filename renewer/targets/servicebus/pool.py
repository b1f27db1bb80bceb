"""Which connection holds which session, and how many connections there are.

Sessions go to the connection with the fewest. A second one is opened once the first holds more than a few hundred, so
that a broker node that is recycled does not take them all, and further ones when those are full. One attempt to connect
at a time, with one backoff: a broker that comes back finds one client at its door, however many leases wait behind it.
A route, over which the message locks of an entity are renewed, counts as one session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio
import structlog

from renewer.errors import RemoteError, TransientError
from renewer.targets.servicebus.ceilings import OUR_LIMIT, is_too_many
from renewer.targets.servicebus.verdicts import copy_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup, TaskStatus

    from renewer.ports import Clock
    from renewer.targets.servicebus.ceilings import Ceiling
    from renewer.targets.servicebus.connection import BrokerConnection

LINGER_S: Final = 10.0
"""How long a connection on which nothing is held is kept."""

_MEANWHILE: Final = 1.25
"""So far beyond its share the first connection is filled while the second one is opened: nobody has to wait for it."""

_FULL_S: Final = 1.0
"""How soon to ask again where no connection has room: a session that is released makes some."""

_BACKOFF_BASE_S: Final = 0.2
_BACKOFF_CAP_S: Final = 3.0

log = structlog.get_logger("renewer.servicebus")


class Pool:
    """The connections of one namespace.

    `prepare` gets ready what a new connection must have at once, and has a time limit of its own; `connect` makes a
    connection that does not run yet; `backoff_s` is the delay for a count of failures, a base and a cap; `ceiling` says
    how many connections there may be.
    """

    def __init__(
        self,
        prepare: Callable[[], Awaitable[None]],
        connect: Callable[[], Awaitable[BrokerConnection]],
        clock: Clock,
        backoff_s: Callable[[int, float, float], float],
        *,
        spread_after: int,
        ceiling: Ceiling,
        connect_timeout_s: float,
    ) -> None:
        self._prepare = prepare
        self._connect = connect
        self._clock = clock
        self._backoff_s = backoff_s
        self._spread_after = spread_after
        self._most_alone = int(spread_after * _MEANWHILE)
        self.ceiling = ceiling
        """How many connections there may be."""
        self._timeout_s = connect_timeout_s
        self._connections: list[BrokerConnection] = []
        self._waiters: dict[_Waiter, None] = {}
        self._wanted = anyio.Event()
        self._failures = 0
        self._last_failure = ""
        self._blocked_until = 0.0
        self._is_serving = False
        self._is_opening = False

    @property
    def connections(self) -> list[BrokerConnection]:
        """Those that are open."""
        return [connection for connection in self._connections if connection.is_open]

    @property
    def trouble(self) -> str | None:
        """Why there is no connection, or not another one, though one was wanted; None as a rule. For people."""
        if self.ceiling.is_lowered:
            have = len(self.connections)
            return f"the broker allows no more than {plural(have)} now: {self.ceiling.why}"
        if not self._failures or self.connections:
            return None
        times = "once" if self._failures == 1 else f"{self._failures} times in a row"
        return f"{self._last_failure} ({times})"

    def fit_on_one(self, most: int) -> int:
        """How many sessions fit on one connection: `most` by our own settings; the peer may allow fewer."""
        for connection in self._connections:
            if connection.is_open:
                most = min(most, connection.channels.capacity)
        return most

    async def reserve(self) -> BrokerConnection:
        """A connection with room for one more session, which is counted until `give_back`.

        TransientError if no connection can be had.
        """
        while True:
            if not self._is_serving:
                raise TransientError("the target is not running", kind="network")
            connection = self.reserve_now()
            if connection is not None:
                return connection
            waiter = _Waiter()
            self._waiters[waiter] = None
            self._wanted.set()
            try:
                await waiter.woken.wait()
            finally:
                self._waiters.pop(waiter, None)
            if waiter.error is not None:
                raise waiter.error

    def reserve_now(self) -> BrokerConnection | None:
        """The same where a connection is there that need not be waited for; else None."""
        connection = self._pick() if self._is_serving else None
        if connection is not None:
            connection.load += 1
        return connection

    def give_back(self, connection: BrokerConnection) -> None:
        """What was reserved is not needed any longer."""
        connection.load -= 1
        if connection.load == 0:
            connection.idle_since = self._clock.now()

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Open connections when they are wanted and close those that are not, until cancelled.

        The connections run inside; on cancellation they are cut. Call `aclose` before to close them in order.
        """
        async with anyio.create_task_group() as tasks:
            self._is_serving = True
            task_status.started()
            try:
                tasks.start_soon(self._sweep)
                while True:
                    await self._wanted.wait()
                    self._wanted = anyio.Event()
                    while self._waiters and self._pick() is None and self._is_serving:
                        self._is_opening = True
                        if self._pick() is not None:
                            # Who came for a second connection need not wait for it.
                            self._wake()
                        try:
                            await self._open_one(tasks)
                        finally:
                            self._is_opening = False
                    self._wake()
            finally:
                self.stop()

    def stop(self) -> None:
        """Take no more sessions."""
        self._is_serving = False
        self._wake(TransientError("the target is stopping", kind="network"))

    async def aclose(self) -> None:
        """Close all connections in order."""
        self.stop()
        async with anyio.create_task_group() as tasks:
            for connection in self._connections:
                tasks.start_soon(connection.aclose)

    def _pick(self) -> BrokerConnection | None:
        usable = 0
        best: BrokerConnection | None = None
        for connection in self._connections:
            if connection.is_usable:
                usable += 1
                if (best is None or connection.load < best.load) and connection.has_room:
                    best = connection
        if best is None or usable > 1 or best.load < self._spread_after:
            return best
        if len(self._connections) >= self.ceiling.value() or self._clock.now() < self._blocked_until:
            return best
        # Time for a second one. If that cannot be had now, the first will do, and a while longer until it is there.
        return best if self._is_opening and best.load < self._most_alone else None

    async def _open_one(self, tasks: TaskGroup) -> None:
        full = self._full()
        if full is not None:
            self._wake(full)
            return
        await anyio.sleep(max(0.0, self._blocked_until - self._clock.now()))
        try:
            await self._prepare()
            with anyio.fail_after(self._timeout_s):
                connection = await self._connect()
        except TimeoutError:
            self._connect_failed(TransientError("the broker could not be reached in time", kind="timeout"))
            return
        except RemoteError as error:
            self._connect_failed(error)
            return
        self._connections.append(connection)
        tasks.start_soon(self._run, connection)
        try:
            await connection.wait_open(self._timeout_s)
        except RemoteError as error:
            await connection.aclose()
            self._connect_failed(error)
            return
        self.ceiling.granted(len(self.connections))
        self._wake()

    def _full(self) -> RemoteError | None:
        """What to say if there may be no further connection."""
        have = len(self._connections)
        if have < self.ceiling.value():
            return None
        if self.ceiling.is_lowered:
            what = f"the broker allows no more than {plural(len(self.connections))} now: {self.ceiling.why}"
        else:
            what = f"{plural(have)} are full; {self._what_to_raise()}"
        return TransientError(
            what, kind="busy", condition=OUR_LIMIT, retry_after_s=max(_FULL_S, self.ceiling.pause_s())
        )

    def _what_to_raise(self) -> str:
        for connection in self._connections:
            refused = connection.capacity.sessions
            if refused.is_lowered:
                return f"raise max_connections of the namespace, as the broker allows no more on one: {refused.why}"
        return "raise max_connections of the namespace, or sessions_per_connection"

    def _connect_failed(self, error: RemoteError) -> None:
        if is_too_many(error):
            self.ceiling.refused(len(self.connections), str(error))
        self._failed(str(error))
        log.warning("could not connect", error=str(error), failures=self._failures)
        has_other = any(connection.is_usable and connection.has_room for connection in self._connections)
        self._wake(None if has_other else error)

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._last_failure = why
        delay = self._backoff_s(self._failures, _BACKOFF_BASE_S, _BACKOFF_CAP_S)
        self._blocked_until = self._clock.now() + delay

    async def _run(self, connection: BrokerConnection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)
        if connection.is_proved:
            self._failures = 0
        elif connection.was_thrown_out:
            trouble = connection.trouble()
            if trouble is not None and is_too_many(trouble):
                self.ceiling.refused(len(self.connections), str(trouble))
            # Let in, and thrown out before it was of any use: as good as not let in.
            self._failed("the broker ends each connection as soon as it is open")

    def _wake(self, error: RemoteError | None = None) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            waiter.error = None if error is None else copy_of(error)
            waiter.woken.set()

    async def _sweep(self) -> None:
        while True:
            await anyio.sleep(LINGER_S / 4)
            now = self._clock.now()
            for connection in self.connections:
                unused = connection.load <= 0 and now - connection.idle_since > LINGER_S
                if unused or (connection.load <= 0 and connection.is_suspect):
                    await connection.aclose()


def plural(connections: int) -> str:
    """So many connections, in words."""
    return "1 connection" if connections == 1 else f"{connections} connections"


class _Waiter:
    __slots__ = ("error", "woken")

    def __init__(self) -> None:
        self.error: RemoteError | None = None
        self.woken = anyio.Event()
