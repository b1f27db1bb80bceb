"""The lease target for one Service Bus namespace: session locks, held here."""

from __future__ import annotations

import socket
import ssl
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import anyio
import structlog
from anyio.abc import SocketAttribute

from renewer.amqp import connect as connect_stream
from renewer.core.events import LinkLost
from renewer.core.model import Grant
from renewer.core.states import LossReason
from renewer.core.timing import full_jitter_s
from renewer.errors import LeaseLostError, TransientError, UsageError
from renewer.targets.servicebus.channels import NoRoomError
from renewer.targets.servicebus.connection import NEXT_SESSION_GRACE_S, BrokerConnection
from renewer.targets.servicebus.lockclock import LockClock, SteadyWall
from renewer.targets.servicebus.pool import Pool
from renewer.targets.servicebus.sas import shared_access_signature
from renewer.targets.servicebus.sessionlink import SessionLink

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream, TaskStatus

    from renewer.core.model import LeaseId, LeaseSpec
    from renewer.ports import Clock, ReportLoss
    from renewer.targets.servicebus.envelope import Template
    from renewer.targets.servicebus.options import NamespaceOptions

DETACH_TIMEOUT_S: Final = 4.0
"""How long a release waits for the broker's confirmation."""

STOP_TIMEOUT_S: Final = 2.0
"""How long giving back all sessions may take at the end."""

ATTACHES_AT_ONCE: Final = 128
"""Sessions asked for by name at a time."""

ATTACH_PATIENCE_S: Final = 2.0
"""How long an acquisition waits for its turn; then it goes ahead: those before it may be waiting for lost answers."""

DISTRUST_S: Final = 86_400.0
"""How much longer a token lives that is made after a refusal: the broker's clock may be ahead of ours."""

USER_TIMEOUT_MS: Final = 10_000
"""How long sent data may go without acknowledgement before the kernel gives the connection up."""

_MAX_SHORT_LOCKS: Final = 10_000

log = structlog.get_logger("renewer.servicebus")


class ServiceBusTarget:
    """Holds session locks of one namespace over few AMQP connections.

    `report_loss` is called once for each lease whose link is lost, the moment that is noticed; `on_skew` with the
    estimated difference between the broker's clock and ours, in seconds, whenever an answer gives one. `connect` makes
    the byte stream to the broker.
    """

    def __init__(
        self,
        options: NamespaceOptions,
        clock: Clock,
        report_loss: ReportLoss,
        *,
        rng: random.Random,
        on_skew: Callable[[float], None] | None = None,
        connect: Callable[[NamespaceOptions], Awaitable[ByteStream]] | None = None,
    ) -> None:
        self.options = options
        self.name = options.target_name
        self.clock_skew_s: float | None = None
        """The broker's clock less ours, as of its last answer. For people: nothing is decided by it."""
        self._clock = clock
        self._report_loss = report_loss
        self._on_skew = on_skew
        self._rng = rng
        self._connect = connect if connect is not None else TcpConnector(options)
        self._wall = SteadyWall(clock.now(), clock.utc_now().timestamp())
        self._pool = Pool(
            self._open,
            clock,
            lambda failures, base_s, cap_s: full_jitter_s(failures, rng.random(), base_s=base_s, cap_s=cap_s),
            spread_after=options.spread_after,
            connect_timeout_s=options.connect_timeout_s,
        )
        self._held: dict[LeaseId, _Held] = {}
        self._by_link: dict[SessionLink, _Held] = {}
        self._attaching = anyio.CapacityLimiter(ATTACHES_AT_ONCE)
        self._short_locks: OrderedDict[LeaseId, float] = OrderedDict()
        self._warned_of_skew = False
        self._stopping = anyio.Event()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._pool.connections)

    @property
    def links(self) -> int:
        """How many sessions are held."""
        return len(self._held)

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled; then give back all sessions and close the connections, in `STOP_TIMEOUT_S` each."""
        self._stopping = anyio.Event()
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._serve)
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                self._stopping.set()

    async def acquire(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Accept the session, or the next available one. The errors are those of `verdicts.attach_refused`."""
        await self._drop_leftover(spec.id, epoch)
        link = await self._accept_somewhere(spec)
        rival = self._held.get(spec.id)
        if rival is not None and rival.epoch >= epoch:
            link.let_go()
            self._end_use(link)
            raise TransientError("the lease has been acquired meanwhile", kind="busy")
        held = _Held(spec.id, epoch, link, self._lock_clock(spec))
        self._held[spec.id] = held
        self._by_link[link] = held
        return self._first_grant(spec, held)

    async def renew(self, spec: LeaseSpec, epoch: int) -> Grant:
        """Renew the lock. LeaseLostError when the broker says that it is gone, or when it is not held as this epoch."""
        held = self._held.get(spec.id)
        if held is None or held.epoch != epoch:
            raise LeaseLostError("the lease is not held", reason=LossReason.DETACHED)
        management = held.link.carrier.management(held.link.entity)
        template = held.template
        if template is None:
            template = held.template = management.renewal(
                link_name=held.link.name, session_id=held.link.session_id or "", lock_s=held.lock.duration_s
            )
        try:
            reply, locked_until = await management.renew(template)
        except LeaseLostError as error:
            self._note_early_end(held, error.reason)
            held.is_told = True
            raise
        except TransientError:
            if held.loss is not None:
                raise LeaseLostError(held.loss.detail, reason=held.loss.reason) from None
            raise
        self._measure(held, locked_until, sent_at=reply.sent_at, received_at=reply.received_at)
        held.anchored_at = max(held.anchored_at, reply.sent_at)
        return Grant(
            anchored_at=reply.sent_at,
            duration_s=held.lock.duration_s,
            locked_until=locked_until,
            session_id=held.link.session_id,
        )

    async def release(self, spec: LeaseSpec, epoch: int) -> None:
        """Detach, which frees the session at once. TransientError when the broker does not confirm it in time."""
        held = self._held.get(spec.id)
        if held is None or held.epoch != epoch:
            return
        self._forget(held)
        if not held.is_told:
            self._short_locks.pop(spec.id, None)
        held.link.let_go()
        if not await held.link.wait_gone(DETACH_TIMEOUT_S):
            held.link.carrier.unanswered()
            raise TransientError("the broker did not confirm the release in time", kind="timeout")

    # Running --------------------------------------------------------------------------------------------------------

    async def _serve(self, *, task_status: TaskStatus[None]) -> None:
        # Shielded, so that the connections outlive the cancellation by the time that a farewell takes.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._pool.serve)
                task_status.started()
                await self._stopping.wait()
                self._pool.stop()
                await self._give_all_back()
                with anyio.move_on_after(STOP_TIMEOUT_S):
                    await self._pool.aclose()
                tasks.cancel_scope.cancel()

    async def _give_all_back(self) -> None:
        links = [held.link for held in self._held.values()]
        for held in list(self._held.values()):
            self._forget(held)
        for link in links:
            link.let_go()
        with anyio.move_on_after(STOP_TIMEOUT_S):
            for link in links:
                await link.wait_gone(STOP_TIMEOUT_S)

    async def _open(self) -> BrokerConnection:
        try:
            stream = await self._connect(self.options)
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError) as error:
            what = f"{self.options.host}:{self.options.port}"
            raise TransientError(
                f"cannot connect to {what}: {error or type(error).__name__}", kind="network"
            ) from error
        return BrokerConnection(stream, self.options, self._clock, self._rng, self._make_token, self._on_lost)

    def _make_token(self, entity: str, distrustful: bool) -> tuple[str, int]:
        # The later of what the clock shows and what it would show had nobody stepped it: too long a token harms nobody.
        now = max(self._wall.at(self._clock.now()), self._clock.utc_now().timestamp())
        expires_at = int(now + self.options.token_lifetime_s + (DISTRUST_S if distrustful else 0.0))
        token = shared_access_signature(
            self.options.audience(entity), key_name=self.options.key_name, key=self.options.key, expires_at=expires_at
        )
        return token, expires_at

    # Acquiring ------------------------------------------------------------------------------------------------------

    async def _drop_leftover(self, lease_id: LeaseId, epoch: int) -> None:
        """A link of an older epoch, or of an attempt whose grant nobody took, makes way."""
        held = self._held.get(lease_id)
        if held is None or held.epoch > epoch:
            return
        self._forget(held)
        held.link.let_go()
        await held.link.wait_gone(DETACH_TIMEOUT_S)

    async def _accept_somewhere(self, spec: LeaseSpec) -> SessionLink:
        while True:
            connection = await self._pool.reserve()
            try:
                return await self._accept(connection, spec)
            except NoRoomError:
                # It turned out smaller than it looked, and is passed over from now on.
                self._pool.give_back(connection)
            except BaseException:
                self._pool.give_back(connection)
                raise

    async def _accept(self, connection: BrokerConnection, spec: LeaseSpec) -> SessionLink:
        entity = spec.entity.strip("/")
        if spec.session_id is None:
            # May wait at the broker for a minute: takes no turn from others.
            return await connection.accept_session(entity, None, server_timeout_s=self._patience_s())
        turn, has_turn = object(), False
        with anyio.move_on_after(ATTACH_PATIENCE_S):
            await self._attaching.acquire_on_behalf_of(turn)
            has_turn = True
        try:
            return await connection.accept_session(entity, spec.session_id, server_timeout_s=0.0)
        finally:
            if has_turn:
                self._attaching.release_on_behalf_of(turn)

    def _patience_s(self) -> float:
        """How long the broker may wait for a session to become free: what is left to our caller, less the way back."""
        left_s = anyio.current_effective_deadline() - anyio.current_time() - NEXT_SESSION_GRACE_S
        return max(1.0, min(self.options.next_session_timeout_s, left_s))

    def _lock_clock(self, spec: LeaseSpec) -> LockClock:
        return LockClock(
            configured_s=self._configured_s(spec),
            assumed_s=self.options.assumed_lock_duration_s,
            upper_s=self._short_locks.get(spec.id),
        )

    def _configured_s(self, spec: LeaseSpec) -> float | None:
        return self.options.lock_duration_s if spec.lock_duration_s is None else spec.lock_duration_s

    def _first_grant(self, spec: LeaseSpec, held: _Held) -> Grant:
        link = held.link
        self._measure(held, link.locked_until, sent_at=link.sent_at, received_at=link.granted_at)
        # The broker may have granted at any time since it was asked. If that is long, only a renewal tells more.
        is_vague = spec.session_id is None or held.lock.is_slow(link.granted_at - link.sent_at)
        held.anchored_at = link.granted_at if is_vague else link.sent_at
        return Grant(
            anchored_at=held.anchored_at,
            duration_s=held.lock.duration_s,
            locked_until=link.locked_until,
            session_id=link.session_id,
            renew_now=is_vague or link.locked_until is None,
        )

    # Measuring ------------------------------------------------------------------------------------------------------

    def _measure(self, held: _Held, locked_until: float | None, *, sent_at: float, received_at: float) -> None:
        held.lock.answered(locked_until, sent_at=self._wall.at(sent_at), received_at=self._wall.at(received_at))
        if locked_until is None:
            return
        self.clock_skew_s = locked_until - held.lock.duration_s - self._clock.utc_now().timestamp()
        if self._on_skew is not None:
            self._on_skew(self.clock_skew_s)
        if held.lock.skewed:
            self._warn_of_skew(
                "the broker's clock and ours are too far apart to read the lock's duration from its answers"
            )

    def _note_early_end(self, held: _Held, reason: str) -> None:
        """The broker's word that a lock expired which we thought valid proves our estimate of its duration wrong."""
        lasted_s = self._clock.now() - held.anchored_at
        if held.is_told or held.lock.is_configured:
            return
        if reason != LossReason.EXPIRED or lasted_s >= held.lock.duration_s:
            return
        self._short_locks[held.lease_id] = max(lasted_s, self.options.assumed_lock_duration_s)
        self._short_locks.move_to_end(held.lease_id)
        if len(self._short_locks) > _MAX_SHORT_LOCKS:
            self._short_locks.popitem(last=False)
        self._warn_of_skew("a lock expired before its estimated end")

    def _warn_of_skew(self, what: str) -> None:
        if not self._warned_of_skew:
            self._warned_of_skew = True
            log.warning(
                "lock duration uncertain",
                target=self.name,
                why=what,
                clock_skew_s=self.clock_skew_s,
                remedy="set lock_duration for this namespace to the entities' lock duration, and synchronise the clock",
            )

    # Losing ---------------------------------------------------------------------------------------------------------

    def _on_lost(self, link: SessionLink, reason: LossReason, detail: str) -> None:
        held = self._by_link.get(link)
        if held is None:
            return
        self._note_early_end(held, reason)
        held.loss = LinkLost(held.lease_id, held.epoch, reason, detail)
        self._forget(held)
        if not held.is_told:
            self._report_loss(held.loss)

    def _forget(self, held: _Held) -> None:
        """The lease is no longer held; its link is on its own."""
        if self._held.get(held.lease_id) is held:
            del self._held[held.lease_id]
        if self._by_link.pop(held.link, None) is not None:
            self._end_use(held.link)

    def _end_use(self, link: SessionLink) -> None:
        link.carrier.session_gone(link.entity)
        self._pool.give_back(link.carrier)


class TcpConnector:
    """Connects over TCP, with TLS where the options say so. Raises UsageError if the CA file cannot be used."""

    def __init__(self, options: NamespaceOptions) -> None:
        try:
            self._tls = ssl.create_default_context(cafile=options.ca_file) if options.tls else None
        except OSError as error:
            raise UsageError(f"ca_file {options.ca_file}: {error}; name a file of PEM certificates") from error

    async def __call__(self, options: NamespaceOptions) -> ByteStream:
        """A stream to the broker. Raises OSError."""
        stream = await connect_stream(
            options.host, options.port, ssl_context=self._tls, server_hostname=options.hostname
        )
        raw_socket: Any = stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610 - a stream's attribute
        if raw_socket is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            raw_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        return stream


class _Held:
    """A lease that is held: which link, and what its lock is known to be."""

    __slots__ = ("anchored_at", "epoch", "is_told", "lease_id", "link", "lock", "loss", "template")

    def __init__(self, lease_id: LeaseId, epoch: int, link: SessionLink, lock: LockClock) -> None:
        self.lease_id = lease_id
        self.epoch = epoch
        self.link = link
        self.lock = lock
        self.anchored_at = 0.0
        self.template: Template | None = None
        self.loss: LinkLost | None = None
        self.is_told = False
