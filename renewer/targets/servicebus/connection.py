"""One connection to the broker, and everything that lives on it: channels, tokens, requests, session receivers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

import anyio
import structlog

from renewer.amqp import (
    AmqpTransport,
    Connection,
    ConnectionClosed,
    ConnectionOpened,
    ConnectionState,
    CreditChanged,
    DeliveryReceived,
    DeliveryUpdated,
    LinkAttached,
    LinkDetached,
    SaslAnonymous,
    SessionEnded,
    SessionOpened,
)
from renewer.core.states import LossReason
from renewer.core.timing import full_jitter_s
from renewer.errors import LeaseLostError, RemoteError, TransientError
from renewer.targets.servicebus.cbs import Tokens
from renewer.targets.servicebus.channels import Channels
from renewer.targets.servicebus.management import Management
from renewer.targets.servicebus.sessionlink import SessionLink
from renewer.targets.servicebus.verdicts import copy_of, describe, loss_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine

    from anyio.abc import ByteStream, TaskGroup

    from renewer.amqp import AmqpError, Attach, Delivery, DeliveryState, Event, Link
    from renewer.ports import Clock
    from renewer.targets.servicebus.channels import Channel
    from renewer.targets.servicebus.options import NamespaceOptions

TICK_S: Final = 0.5
"""How often tokens, windows and unused entities are looked after."""

ENTITY_LINGER_S: Final = 60.0
"""How long the way to an entity is kept open after nobody here uses it any longer."""

SUSPECT_AFTER: Final = 3
"""So many requests in a row without an answer, and no new session is put on this connection."""

NEXT_SESSION_GRACE_S: Final = 10.0
"""How much longer than it was asked to the broker may take to say that no session is free."""

log = structlog.get_logger("renewer.servicebus")


class LinkOwner(Protocol):
    """Who is told what happens to a link."""

    def on_attached(self, remote: Attach) -> None:
        """The broker attached its end."""

    def on_detached(self, error: AmqpError | None, *, by_us: bool) -> None:
        """The link is gone."""

    def on_credit(self) -> None:
        """A sender's credit changed."""

    def on_delivery(self, delivery: Delivery) -> None:
        """A message arrived."""

    def on_updated(self, delivery: Delivery, state: DeliveryState | None, *, settled: bool) -> None:
        """The broker said what became of a message of ours."""


class BrokerConnection:
    """An AMQP connection with the sessions held on it. `run` it; it is usable once `wait_open` returns.

    `on_lost(link, reason, detail)` is called for each session that is lost, the moment that is known.
    """

    def __init__(
        self,
        stream: ByteStream,
        options: NamespaceOptions,
        clock: Clock,
        rng: random.Random,
        make_token: Callable[[str, bool], tuple[str, int]],
        on_lost: Callable[[SessionLink, LossReason, str], None],
    ) -> None:
        self._options = options
        self._clock = clock
        self._rng = rng
        self._on_lost = on_lost
        self.container_id = f"renewer-{uuid4()}"
        self._amqp = Connection(
            role="client",
            container_id=self.container_id,
            hostname=options.hostname,
            max_frame_size=options.max_frame_size,
            idle_time_out_s=options.idle_timeout_s,
            told_idle_time_out_s=options.idle_timeout_s / 2,
            open_time_out_s=options.connect_timeout_s,
            properties={"product": "renewer"},
            sasl=SaslAnonymous(),
            now=clock.now(),
        )
        self._transport = AmqpTransport(stream, self._amqp, clock=clock.now)
        self.answer_timeout_s = options.connect_timeout_s
        self.channels = Channels(
            self._amqp,
            links_per_channel=options.links_per_session,
            answer_timeout_s=self.answer_timeout_s,
            flush=self.flush,
        )
        self._tokens = Tokens(self, make_token, options.audience, lifetime_s=options.token_lifetime_s)
        self._entities: dict[str, _Entity] = {}
        self._owners: dict[Link, tuple[LinkOwner, Channel]] = {}
        self._fallen: list[LinkDetached] = []
        self._tasks: TaskGroup | None = None
        self._settled = anyio.Event()
        self._was_let_in = False
        self._is_closing = False
        self._trouble: RemoteError | None = None
        self._silence = 0
        self.load = 0
        """Sessions held or asked for here, and routes. Counted by the pool, which decides by it."""
        self.is_proved = False
        """Whether a session was granted or a lock renewed here: the broker is there in earnest."""
        self.idle_since = clock.now()

    # For the pool ---------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the broker let us in, and the connection is not over."""
        return self._was_let_in and self._trouble is None

    @property
    def is_usable(self) -> bool:
        """Whether sessions may be put here."""
        return self.is_open and not self._is_closing and not self.is_suspect

    @property
    def was_thrown_out(self) -> bool:
        """Whether the connection is over after the broker had let us in, and not because we wanted it so."""
        return self._was_let_in and self._trouble is not None and not self._is_closing

    @property
    def is_suspect(self) -> bool:
        """Whether the broker has stopped answering here, though it may still send signs of life."""
        return self._silence >= SUSPECT_AFTER

    @property
    def has_room(self) -> bool:
        """Whether one more session fits."""
        capacity = min(self._options.sessions_per_connection, self.channels.capacity)
        return self.load < capacity and not self.channels.is_crowded

    async def run(self) -> None:
        """Serve until the connection is over. Raises nothing but cancellation; `on_lost` was called for all by then."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._tick)
                await self._transport.run(self._on_event)
                tasks.cancel_scope.cancel()
        except Exception:
            # A fault of ours costs this connection, not the others.
            log.exception("a connection failed")
        finally:
            self._tasks = None
            self._go_down("the connection was given up")

    async def wait_open(self, timeout_s: float) -> None:
        """Return when sessions can be asked for; TransientError if the broker does not let us in."""
        with anyio.move_on_after(timeout_s):
            await self._settled.wait()
        if self._trouble is not None:
            raise copy_of(self._trouble)
        if not self._was_let_in:
            raise TransientError("the broker did not open the connection in time", kind="timeout")

    async def aclose(self) -> None:
        """Close in order, and without asking if that takes too long."""
        self._is_closing = True
        await self._transport.aclose()

    # Sessions -------------------------------------------------------------------------------------------------------

    async def accept_session(self, entity: str, session_id: str | None, *, server_timeout_s: float) -> SessionLink:
        """Hold a session: this one, or with None the next available one, for which the broker may wait so long.

        LeaseLostError or TransientError if it cannot be had; a token that is refused is replaced once.
        """
        self.enter(entity)
        try:
            await self._tokens.ensure(entity)
            self.management(entity).open_soon()
            try:
                link = await self._attach(entity, session_id, server_timeout_s)
            except LeaseLostError as error:
                if error.reason != LossReason.UNAUTHORIZED:
                    raise
                await self._tokens.replace(entity, since=self.now())
                link = await self._attach(entity, session_id, server_timeout_s)
        except BaseException:
            self.leave(entity)
            raise
        self.is_proved = True
        return link

    def management(self, entity: str) -> Management:
        """Requests for the entity."""
        return self._entity(entity).management

    def enter(self, entity: str) -> None:
        """Keep the way to the entity open until `leave`, besides what `accept_session` does for a session."""
        self._entity(entity).users += 1

    def leave(self, entity: str) -> None:
        """A session that `accept_session` returned, or whoever entered, does not use the entity any longer."""
        use = self._entities.get(entity)
        if use is not None:
            use.users -= 1
            use.idle_since = self.now()

    # For what lives on the connection -------------------------------------------------------------------------------

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock.now()

    def flush(self) -> None:
        """Have what was queued sent."""
        self._transport.flush()

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Run `work` for as long as the connection lasts."""
        if self._tasks is None:
            raise TransientError("the connection is closed", kind="network")
        self._tasks.start_soon(work, *args)

    def backoff_s(self, failures: int, *, base_s: float, cap_s: float) -> float:
        """Exponential, full jitter."""
        return full_jitter_s(failures, self._rng.random(), base_s=base_s, cap_s=cap_s)

    def own(self, link: Link, owner: LinkOwner, channel: Channel) -> None:
        """Tell `owner` about the link; its handle on `channel` is given back when it is gone."""
        self._owners[link] = (owner, channel)

    def trouble(self) -> RemoteError | None:
        """Why the connection is over; None while it is not."""
        return None if self._trouble is None else copy_of(self._trouble)

    def answered(self) -> None:
        """The broker answered something."""
        self._silence = 0

    def unanswered(self) -> None:
        """Somebody stopped waiting for an answer."""
        self._silence += 1

    def dropped_reply(self, node: str, why: str) -> None:
        """A reply came that nobody can use."""
        log.debug("reply dropped", node=node, why=why)

    def token_not_refreshed(self, entity: str, error: RemoteError) -> None:
        """A token could not be replaced while the old one is still good."""
        log.warning("token not refreshed", target=self._options.target_name, entity=entity, error=str(error))

    def lost(self, link: SessionLink, error: AmqpError | None) -> None:
        """The broker took a session away."""
        reason = loss_of(error)
        if self._trouble is not None and reason is LossReason.DETACHED:
            reason, detail = LossReason.CONNECTION_LOST, str(self._trouble)
        else:
            detail = describe(error, "the broker detached the link")
        self._on_lost(link, reason, detail)

    # Events ---------------------------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        match event:
            case DeliveryReceived(link, delivery):
                owner = self._owners.get(link)
                if owner is not None:
                    owner[0].on_delivery(delivery)
            case DeliveryUpdated(link, delivery, state, settled):
                owner = self._owners.get(link)
                if owner is not None:
                    owner[0].on_updated(delivery, state, settled=settled)
            case CreditChanged(link):
                owner = self._owners.get(link)
                if owner is not None:
                    owner[0].on_credit()
            case LinkAttached(link, remote):
                owner = self._owners.get(link)
                if owner is not None:
                    owner[0].on_attached(remote)
            case LinkDetached():
                if self._amqp.state is ConnectionState.CLOSED:
                    self._fallen.append(event)  # Why is said by the ConnectionClosed that follows.
                else:
                    self._link_gone(event)
            case SessionOpened(session):
                self.channels.on_opened(session)
            case SessionEnded(session):
                self.channels.on_ended(session)
            case ConnectionOpened():
                self._was_let_in = True
                self._settled.set()
            case ConnectionClosed(error, reason):
                self._go_down(describe_end(error, reason), refused=reason == "sasl")

    def _go_down(self, detail: str, *, refused: bool = False) -> None:
        if self._trouble is None:
            self._trouble = TransientError(detail, kind="unauthorized" if refused else "network")
        self._settled.set()
        self.channels.close()
        self._tokens.close(self._trouble)
        for use in self._entities.values():
            use.management.close(self._trouble)
        self._entities.clear()
        for event in self._fallen:
            self._link_gone(event)
        self._fallen.clear()
        for link, (owner, _) in list(self._owners.items()):
            del self._owners[link]
            owner.on_detached(None, by_us=False)

    def _link_gone(self, event: LinkDetached) -> None:
        owner = self._owners.pop(event.link, None)
        if owner is not None:
            owner[1].free()
            owner[0].on_detached(event.error, by_us=event.by_us)

    # Helpers --------------------------------------------------------------------------------------------------------

    async def _attach(self, entity: str, session_id: str | None, server_timeout_s: float) -> SessionLink:
        link = SessionLink(self, entity, session_id)
        timeout_s = self.answer_timeout_s if session_id is not None else server_timeout_s + NEXT_SESSION_GRACE_S
        channel = await self.channels.place(1, control=False)
        await link.attach(
            channel, self._options.source_address(entity), server_timeout_s=server_timeout_s, timeout_s=timeout_s
        )
        return link

    def _entity(self, entity: str) -> _Entity:
        use = self._entities.get(entity)
        if use is None:
            management = Management(self, entity, self._tokens, window=self._options.request_window)
            if self._trouble is not None:
                management.close(self._trouble)
                return _Entity(management, self.now())
            use = self._entities[entity] = _Entity(management, self.now())
        return use

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(TICK_S)
            self._tokens.refresh()
            self._tokens.pump()
            for entity, use in list(self._entities.items()):
                use.management.pump()
                if use.users <= 0 and not use.management.pending and self.now() - use.idle_since > ENTITY_LINGER_S:
                    del self._entities[entity]
                    use.management.close(TransientError("the entity is not in use", kind="network"))
                    self._tokens.forget(entity)


def describe_end(error: AmqpError | None, reason: str) -> str:
    """Why a connection is over, in one line."""
    return f"{_ENDS[reason]}: {describe(error, '')}" if error is not None else _ENDS[reason]


_ENDS: Final = {
    "closed": "the connection was closed",
    "eof": "the connection broke",
    "protocol-error": "the broker and we do not understand each other",
    "idle": "the broker fell silent",
    "sasl": "the broker did not let us in",
}


class _Entity:
    __slots__ = ("idle_since", "management", "users")

    def __init__(self, management: Management, now: float) -> None:
        self.management = management
        self.users = 0
        self.idle_since = now
