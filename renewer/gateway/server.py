"""The gateway's door: listens, lets workers connect within bounds, keeps time for them all, and takes leave of them."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, assert_never

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from renewer.asgi import UnixListener, listen_tcp, listen_unix
from renewer.gateway.hangups import Hangups
from renewer.gateway.options import TcpAddress, UnixAddress
from renewer.gateway.pair import Pair
from renewer.gateway.relay import Relay
from renewer.gateway.tls import Scratch, Tls, server_context
from renewer.gateway.upstream import Dialer
from renewer.gateway.wire import FAREWELL_S, SocketWire

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Mapping

    from renewer.gateway.access import Doorman
    from renewer.gateway.ledgers import LinkLedger
    from renewer.gateway.options import GatewayOptions
    from renewer.ports import Clock
    from renewer.targets.servicebus.credentials import EntityToken, TokenProvider

MOST_STRANGERS: Final = 100
"""So many workers may be connected at once that have not proved a key; then the oldest of them has to go."""

TICK_S: Final = 0.25

_BACKLOG: Final = 1024
_QUIET_S: Final = 600.0

log = structlog.get_logger("renewer.gateway")


class Ledgers(Protocol):
    """The target of this gateway's leases, as far as it is asked here."""

    def connection(self, *, key_name: Callable[[], str | None], worker: str) -> LinkLedger:
        """What notes the locks of one more connection."""
        ...

    def tick(self, now: float) -> None:
        """Time has passed."""
        ...


@dataclass(frozen=True, slots=True)
class GatewayReadings:
    """What a gateway shows at one moment. `connections` are of workers that were let in, `strangers` of all others.

    `keys` counts the connections by the key that was proved first, `refusals` what was refused by its reason, since the
    start. `messages` are those that were passed to workers.
    """

    name: str
    address: str
    connections: int
    strangers: int
    keys: Mapping[str, int]
    refusals: Mapping[str, int]
    upstream_failures: int
    messages: int
    buffered_bytes: int


class GatewayServer:
    """One gateway. Runs on asyncio. Raises `UsageError` if the namespace's CA file cannot be used."""

    def __init__(
        self,
        options: GatewayOptions,
        target: Ledgers,
        clock: Clock,
        doorman: Doorman,
        provider: TokenProvider,
        *,
        draining: Callable[[], bool] = lambda: False,
        make_relay: Callable[..., Relay] = Relay,
    ) -> None:
        """`draining` says whether workers may only go on with what they have."""
        self._options = options
        self._target = target
        self._clock = clock
        self.now = clock.now
        """See `House`. Asked for all that comes: not by way of a method."""
        self._doorman = doorman
        self._provider = provider
        self._make_relay = make_relay
        self._draining = draining
        self._scratch = Scratch()
        self._hangups = Hangups()
        self._dialer = Dialer(options.namespace, self._scratch)
        self._tls: ssl.SSLContext | None = None
        self._listener: socket.socket | None = None
        self._port = 0
        self._door: asyncio.Server | None = None
        self._tasks: TaskGroup | None = None
        self._pairs: dict[Pair, LinkLedger | None] = {}
        self._strangers: OrderedDict[Pair, None] = OrderedDict()
        self._is_stopping = False
        self._all_gone = anyio.Event()
        self._refusals: Counter[str] = Counter()
        self._upstream_failures = 0
        self._passed = 0
        self._said: dict[str, _Saying] = {}

    @property
    def address(self) -> str:
        """Where it listens: HOST:PORT, the port as it came from the system, or the path of the socket."""
        match self._options.listen:
            case TcpAddress() as tcp:
                host = f"[{tcp.host}]" if ":" in tcp.host else tcp.host
                return f"{host}:{self._port or tcp.port}"
            case UnixAddress() as unix:
                return unix.path
            case _:
                assert_never(self._options.listen)

    def bind(self) -> None:
        """Take the address, before `run`, which does it otherwise. Raises `UsageError` if it cannot be had."""
        if self._listener is not None:
            return
        match self._options.listen:
            case TcpAddress() as tcp:
                if tcp.tls_cert_file is not None:
                    self._tls = server_context(tcp.tls_cert_file, tcp.tls_key_file)
                self._listener = listen_tcp(tcp.host, tcp.port)
                self._port = self._listener.getsockname()[1]
            case UnixAddress() as unix:
                self._listener = listen_unix(Path(unix.path), mode=unix.mode, group=unix.group)
            case _:
                assert_never(self._options.listen)

    def unbind(self) -> None:
        """Give the address back."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        listener.close()
        if isinstance(listener, UnixListener):
            listener.remove_file()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then take leave of all workers. Raises `UsageError` as `bind` does."""
        self.bind()
        assert self._listener is not None  # noqa: S101 - bind has seen to it
        self._is_stopping = False
        self._hangups = Hangups()
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                loop = asyncio.get_running_loop()
                if isinstance(self._options.listen, UnixAddress):
                    self._door = await loop.create_unix_server(self._accept, sock=self._listener, backlog=_BACKLOG)
                else:
                    self._door = await loop.create_server(self._accept, sock=self._listener, backlog=_BACKLOG)
                log.info("gateway listening", gateway=self._options.name, address=self.address)
                task_status.started()
                try:
                    while True:
                        await anyio.sleep(TICK_S)
                        self._tick()
                finally:
                    with anyio.CancelScope(shield=True):
                        await self.stop("the gateway stops")
        finally:
            self._tasks = None
            self._hangups.close()
            self.unbind()

    async def stop(self, reason: str) -> None:
        """Take leave of all workers, and let nobody in any more. Takes little longer than `FAREWELL_S`."""
        self._is_stopping = True
        if self._door is not None:
            self._door.close()
        for pair in list(self._pairs):
            pair.stop(reason)
        with anyio.move_on_after(FAREWELL_S):
            await self._until_all_gone()
        for pair in list(self._pairs):
            pair.abort()
        with anyio.move_on_after(FAREWELL_S):
            await self._until_all_gone()

    def readings(self) -> GatewayReadings:
        """What is to be seen now."""
        keys = Counter({key.name: 0 for key in self._options.keys})
        keys.update(pair.key_name for pair in self._pairs if pair.key_name is not None)
        return GatewayReadings(
            name=self._options.name,
            address=self.address,
            connections=len(self._pairs) - len(self._strangers),
            strangers=len(self._strangers),
            keys=dict(keys),
            refusals=dict(self._refusals),
            upstream_failures=self._upstream_failures,
            messages=self._passed + sum(pair.passed for pair in self._pairs),
            buffered_bytes=sum(pair.buffered for pair in self._pairs),
        )

    # For the pairs --------------------------------------------------------------------------------------------------

    def is_draining(self) -> bool:
        """See `House`."""
        return self._draining()

    def make_relay(self, pair: Pair, now: float) -> Relay:
        """See `House`."""
        ledger = self._target.connection(key_name=lambda: pair.key_name, worker="")
        self._pairs[pair] = ledger
        return self._make_relay(
            pair, self._options, self._doorman, ledger, now=now, wall=lambda: self._clock.utc_now().timestamp()
        )

    def start_soon(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """See `House`."""
        if self._tasks is not None:
            self._tasks.start_soon(function)

    async def dial(self, pair: Pair, give_up: anyio.CancelScope) -> None:
        """See `House`."""
        if pair.key_name is not None:
            # It had proved its key before it said what it is called.
            self._say_let_in(pair)
        await self._dialer.run(pair.broker_end(), give_up)

    async def token(self, entity: str) -> EntityToken:
        """See `House`."""
        with anyio.fail_after(self._options.namespace.connect_timeout_s):
            return await self._provider.token(entity)

    def let_in(self, pair: Pair) -> None:
        """See `House`."""
        self._strangers.pop(pair, None)
        if self._worker_of(pair):
            self._say_let_in(pair)

    def refused(self, why: str, detail: str, peer: str) -> None:
        """See `House`."""
        self._refusals[why] += 1
        count = self._count(why)
        if count is not None:
            log.warning("worker refused", gateway=self._options.name, why=why, detail=detail, peer=peer, count=count)

    def upstream_failed(self, detail: str) -> None:
        """See `House`."""
        self._upstream_failures += 1
        count = self._count("upstream")
        if count is not None:
            log.warning("upstream failed", gateway=self._options.name, error=detail, count=count)

    def over(self, pair: Pair) -> None:
        """See `House`."""
        if pair.key_name is not None:
            log.info(
                "worker gone",
                gateway=self._options.name,
                key=pair.key_name,
                worker=self._worker_of(pair),
                peer=pair.peer,
                messages=pair.passed,
            )
        self._forget(pair)

    # ----------------------------------------------------------------------------------------------------------------

    def _accept(self) -> asyncio.BaseProtocol:
        is_full = len(self._pairs) >= self._options.max_connections
        if self._strangers and (is_full or len(self._strangers) >= MOST_STRANGERS):
            # Whoever does not log in must not keep others out.
            oldest = next(iter(self._strangers))
            self.refused("full", "others came, and it had not logged in", oldest.peer)
            oldest.stop("others came, and this worker had not logged in")
            oldest.abort()
            self._forget(oldest)
        elif is_full:
            self.refused("full", "max_connections of the gateway are there", "")
            return _Refusal()
        if self._is_stopping:
            return _Refusal()
        pair = Pair(self)
        tls = None if self._tls is None else Tls(self._tls, self._scratch)
        wire = SocketWire(pair.worker_end(), self._scratch, tls=tls, hangups=self._hangups)
        pair.accept(wire)
        self._pairs[pair] = None
        self._strangers[pair] = None
        return wire

    def _forget(self, pair: Pair) -> None:
        if pair in self._pairs:
            self._passed += pair.passed
            del self._pairs[pair]
        self._strangers.pop(pair, None)
        if not self._pairs:
            self._all_gone.set()

    def _tick(self) -> None:
        now = self._clock.now()
        for pair in list(self._pairs):
            pair.advance(now, self._options.login_timeout_s)
        try:
            self._target.tick(now)
        except Exception:
            log.exception("the gateway's leases could not be looked after", gateway=self._options.name)

    def _say_let_in(self, pair: Pair) -> None:
        if pair.is_announced:
            return
        pair.is_announced = True
        log.info(
            "worker let in",
            gateway=self._options.name,
            key=pair.key_name,
            worker=self._worker_of(pair),
            peer=pair.peer,
        )

    def _worker_of(self, pair: Pair) -> str:
        ledger = self._pairs.get(pair)
        return "" if ledger is None else ledger.worker

    async def _until_all_gone(self) -> None:
        while self._pairs:
            self._all_gone = anyio.Event()
            await self._all_gone.wait()

    def _count(self, what: str) -> int | None:
        return self._said.setdefault(what, _Saying()).count(self._clock.now())


class _Refusal(asyncio.Protocol):
    """Nobody is there for who connects."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Saying:
    """What happens again and again is said the 1st, 2nd, 4th, 8th time and so on, until it has not for a while."""

    __slots__ = ("_count", "_last_at")

    def __init__(self) -> None:
        self._count = 0
        self._last_at = 0.0

    def count(self, now: float) -> int | None:
        """How often it has happened by now, if that is to be said."""
        if now - self._last_at > _QUIET_S:
            self._count = 0
        self._last_at = now
        self._count += 1
        return self._count if self._count & (self._count - 1) == 0 else None
