"""One connection to the broker, and everything that lives on it: channels, tokens, requests, session receivers."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, Final
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
from renewer.targets.servicebus.capacity import Capacity
from renewer.targets.servicebus.cbs import Tokens
from renewer.targets.servicebus.channels import Channels
from renewer.targets.servicebus.entities import Entities
from renewer.targets.servicebus.links import Links
from renewer.targets.servicebus.options import MAX_UNFINISHED_BYTES
from renewer.targets.servicebus.sessionlink import SessionLink
from renewer.targets.servicebus.sharing import Sharing
from renewer.targets.servicebus.unhurried import Unhurried
from renewer.targets.servicebus.verdicts import TOO_LARGE, copy_of, describe, describe_end, loss_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine

    from anyio.abc import ByteStream, TaskGroup

    from renewer.amqp import AmqpError, Event, Link
    from renewer.errors import AmqpProtocolError, TransientKind
    from renewer.ports import Clock
    from renewer.targets.servicebus.channels import Channel
    from renewer.targets.servicebus.credentials import TokenProvider
    from renewer.targets.servicebus.links import LinkOwner
    from renewer.targets.servicebus.management import Management
    from renewer.targets.servicebus.options import NamespaceOptions

TICK_S: Final = 0.5
"""How often tokens, windows and unused entities are looked after."""

REST_S: Final = 0.025
"""How long answers to renewals may lie unread, at most. Nothing is lost by it: a lock counts from when its renewal was
sent. That a session is lost is heard so much later where it is told just then."""

ANSWER_S: Final = 0.002
"""About how long a broker takes for each, where it takes one after the other: fewer are not waited for as long."""

URGENT_S: Final = 0.5
"""So long after anything but a renewal was asked for, all that comes is read at once: somebody waits for it."""

SUSPECT_AFTER: Final = 3
"""So many requests in a row without an answer, and no new session is put on this connection."""

NEXT_SESSION_GRACE_S: Final = 10.0
"""How much longer than it was asked to the broker may take to say that no session is free."""

log = structlog.get_logger("renewer.servicebus")


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
        provider: TokenProvider,
        on_lost: Callable[[SessionLink, LossReason, str], None],
        capacity: Capacity | None = None,
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
            max_unfinished=MAX_UNFINISHED_BYTES,
            now=clock.now(),
        )
        self._transport = AmqpTransport(stream, self._amqp, clock=clock.now)
        unhurried = stream.extra(Unhurried.stream, None)  # noqa: S610 - a stream's attribute
        if unhurried is not None:
            unhurried.rest_s = self._rest_s
        self._urgent_until = clock.now()
        self.answer_timeout_s = options.connect_timeout_s
        if capacity is None:
            capacity = Capacity(clock, options.target_name, options.links_per_session)
        self.capacity = capacity
        """What connections and AMQP sessions of the namespace carry."""
        self.channels = Channels(
            self._amqp,
            capacity=capacity,
            answer_timeout_s=self.answer_timeout_s,
            flush=self.flush,
        )
        self._tokens = Tokens(self, provider, options.audience)
        self._entities = Entities(self, self._tokens, options)
        self._links = Links()
        self._link_names = uuid4().hex[:16], itertools.count(1)
        self._asked: deque[SessionLink] = deque()
        """Sessions that were asked for with `ask_for_session`, as long as the first of them waits for its answer."""
        self._unreadable = 0
        self._to_tell: list[Callable[[], None]] = []
        self._most = options.sessions_that_share
        self._max_message_size = options.max_receive_size
        self._tasks: TaskGroup | None = None
        self._settled = anyio.Event()
        self._was_let_in = False
        self._is_closing = False
        self._trouble: RemoteError | None = None
        self._silence = 0
        self.load = 0
        """Sessions held or asked for here, and routes. Counted by the pool, which decides by it."""
        self.full_at: int | None = None
        """With so many sessions the broker refused another one here; None where that is not so, or was judged."""
        self.is_proved = False
        """Whether a session was granted or a lock renewed here: the broker is there in earnest."""
        self.idle_since = clock.now()
        self.sharing = Sharing()
        """What the sessions held here share besides the way to the broker."""

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
        if self.channels.is_crowded or self.load >= min(self._most, self.channels.capacity):
            return False
        return self.load < self._refused_beyond()

    @property
    def is_overfull(self) -> bool:
        """Whether more is reserved here than the broker allows, as was learned since."""
        return self.load > self._refused_beyond()

    async def run(self) -> None:
        """Serve until the connection is over. Raises nothing but cancellation; `on_lost` was called for all by then."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._tick)
                await self._transport.run(self._on_event, self._tell)
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

    async def accept_session(
        self, entity: str, session_id: str | None, *, server_timeout_s: float, begun: SessionLink | None = None
    ) -> SessionLink:
        """Hold a session: this one, or with None the next available one, for which the broker may wait so long.

        LeaseLostError or TransientError if it cannot be had; a token that is refused is replaced once. With `begun` it
        was asked for by `ask_for_session`, and that was refused.
        """
        self.enter(entity)
        try:
            await self._tokens.ensure(entity)
            self.management(entity).open_soon()
            try:
                if begun is not None and begun.refusal is not None:
                    raise begun.refusal
                link = await self._attach(entity, session_id, server_timeout_s)
            except LeaseLostError as error:
                if error.reason != LossReason.UNAUTHORIZED:
                    raise
                await self._tokens.replace(entity, since=self.now())
                link = await self._attach_again(entity, session_id, server_timeout_s)
        except BaseException:
            self.leave(entity)
            raise
        return link

    def ask_for_session(self, entity: str, session_id: str, settled: Callable[[], None]) -> SessionLink | None:
        """Ask for this session where nothing has to be waited for before; None where something has.

        `settled` is called, not before this returns, once the link is held or has its `refusal`.
        """
        if not self._tokens.has(entity):
            return None
        use = self._entities.of(entity)
        use.management.open_soon()
        channel = self.channels.place_now(1, control=False)
        if channel is None:
            return None
        link = SessionLink(self, entity, session_id)
        # From here on nothing may fail but the asking: an answer would come to somebody who gave up.
        try:
            link.ask(channel, use.address, settled, server_timeout_s=0.0, max_message_size=self._max_message_size)
        except TransientError:
            return None
        use.users += 1
        self._asked.append(link)
        return link

    def note_granted(self) -> None:
        """A session was granted here: if the broker has refused more, it may have more room by now."""
        ceiling = self.capacity.sessions
        if ceiling.is_lowered:
            ceiling.granted(self.channels.carried)

    def management(self, entity: str) -> Management:
        """Requests for the entity."""
        return self._entities.of(entity).management

    def enter(self, entity: str) -> None:
        """Keep the way to the entity open until `leave`, besides what `accept_session` does for a session."""
        self._entities.of(entity).users += 1

    def leave(self, entity: str) -> None:
        """A session that `accept_session` returned, or whoever entered, does not use the entity any longer."""
        self._entities.leave(entity)

    # For what lives on the connection -------------------------------------------------------------------------------

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock.now()

    def flush(self, *, for_renewals: bool = False) -> None:
        """See `Carrier`."""
        if not for_renewals:
            self._urgent_until = self.now() + URGENT_S
        self._transport.flush()

    def tell_together(self, tell: Callable[[], None]) -> None:
        """Have that called once all that the broker sent together is taken in. Only for what came from it just now."""
        self._to_tell.append(tell)

    def new_link_name(self) -> str:
        """What no other link is called, on any connection: the broker tells sessions apart by it."""
        return f"{self._link_names[0]}-{next(self._link_names[1])}"

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Run `work` for as long as the connection lasts."""
        if self._tasks is None:
            raise TransientError("the connection is closed", kind="network")
        self._tasks.start_soon(work, *args)

    def backoff_s(self, failures: int, *, base_s: float, cap_s: float) -> float:
        """Exponential, full jitter."""
        return full_jitter_s(failures, self._rng.random(), base_s=base_s, cap_s=cap_s)

    async def place_requests(self, count: int) -> Channel:
        """See `Carrier`."""
        return await self.channels.place(count, control=True)

    def own(self, link: Link, owner: LinkOwner, channel: Channel) -> None:
        """Tell `owner` about the link; its handle on `channel` is given back when it is gone."""
        self._links.own(link, owner, channel)

    def trouble(self) -> RemoteError | None:
        """Why the connection is over; None while it is not."""
        return None if self._trouble is None else copy_of(self._trouble)

    def answered(self) -> None:
        """The broker answered something."""
        self._silence = 0

    def unanswered(self) -> None:
        """Somebody stopped waiting for an answer."""
        self._silence += 1

    def dropped_reply(self, node: str) -> None:
        """See `Carrier`."""
        log.debug("reply dropped", node=node)

    def unreadable_reply(self, node: str, error: AmqpProtocolError) -> None:
        """See `Carrier`. Told the 1st, 2nd, 4th, 8th time and so on: a broker that writes one so writes all so."""
        self._unreadable += 1
        if self._unreadable.bit_count() == 1:
            target = self._options.target_name
            log.warning("reply not readable", target=target, node=node, error=str(error), count=self._unreadable)

    def token_not_refreshed(self, entity: str, error: RemoteError, left_s: float) -> None:
        """A token could not be replaced; the old one is good for so long."""
        log.warning(
            "token not refreshed",
            target=self._options.target_name,
            entity=entity,
            error=str(error),
            ends_in_s=round(left_s),
        )

    def lost(self, link: SessionLink, error: AmqpError | None) -> None:
        """The broker took a session away."""
        reason = loss_of(error)
        if self._trouble is not None and reason is LossReason.DETACHED:
            reason, detail = LossReason.CONNECTION_LOST, str(self._trouble)
        else:
            detail = describe(error, "the broker detached the link")
            if error is not None and error.condition == TOO_LARGE:
                detail += "; a message is larger than message_size_limit of its namespace allows: raise that"
        if reason is LossReason.DETACHED and self._tokens.has_run_out(link.entity):
            # Whatever the broker calls it: links go when their token has ended.
            reason = LossReason.UNAUTHORIZED
        if reason is LossReason.UNAUTHORIZED:
            detail = f"{detail}; {self._tokens.remedy(link.entity)}"
        self._on_lost(link, reason, detail)

    # Events ---------------------------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        match event:
            case DeliveryReceived() | DeliveryUpdated() | CreditChanged() | LinkAttached() | LinkDetached():
                # Why links are gone with their connection is said by the ConnectionClosed that follows.
                self._links.on_event(event, is_over=self._amqp.state is ConnectionState.CLOSED)
            case SessionOpened(session):
                self.channels.on_opened(session)
            case SessionEnded(session):
                self.channels.on_ended(session)
            case ConnectionOpened():
                self._was_let_in = True
                self._settled.set()
            case ConnectionClosed(error, reason):
                condition = None if error is None else str(error.condition)
                self._go_down(describe_end(error, reason), refused=reason == "sasl", condition=condition)

    def _tell(self) -> None:
        while self._to_tell:
            self._to_tell.pop()()

    def _go_down(self, detail: str, *, refused: bool = False, condition: str | None = None) -> None:
        if self._trouble is None:
            kind: TransientKind = "unauthorized" if refused else "network"
            self._trouble = TransientError(detail, kind=kind, condition=condition)
        self._settled.set()
        self.channels.close()
        self._tokens.close(self._trouble)
        self._entities.close(self._trouble)
        self._links.close()

    # Helpers --------------------------------------------------------------------------------------------------------

    def _refused_beyond(self) -> float:
        most = self.capacity.sessions.value()
        return most if self.full_at is None else min(most, self.full_at)

    def _rest_s(self) -> float:
        """How long what the broker sends next may lie unread: a while, where several renewals are to be answered."""
        pending = self._entities.pending
        return min(REST_S, ANSWER_S * pending) if pending > 1 and self.now() >= self._urgent_until else 0.0

    async def _attach(self, entity: str, session_id: str | None, server_timeout_s: float) -> SessionLink:
        link = SessionLink(self, entity, session_id)
        timeout_s = self.answer_timeout_s if session_id is not None else server_timeout_s + NEXT_SESSION_GRACE_S
        channel = await self.channels.place(1, control=False)
        await link.attach(
            channel,
            self._entities.of(entity).address,
            server_timeout_s=server_timeout_s,
            timeout_s=timeout_s,
            max_message_size=self._max_message_size,
        )
        return link

    async def _attach_again(self, entity: str, session_id: str | None, server_timeout_s: float) -> SessionLink:
        try:
            return await self._attach(entity, session_id, server_timeout_s)
        except LeaseLostError as error:
            if error.reason != LossReason.UNAUTHORIZED:
                raise
            raise copy_of(error, text=f"{error}; {self._tokens.remedy(entity)}") from None

    async def _tick(self) -> None:
        while True:
            await anyio.sleep(TICK_S)
            self._give_up_unanswered()
            self._tokens.refresh()
            self._tokens.pump()
            self._entities.pump()

    def _give_up_unanswered(self) -> None:
        overdue_at = self.now() - self.answer_timeout_s
        while self._asked and (not self._asked[0].is_awaited or self._asked[0].sent_at <= overdue_at):
            link = self._asked.popleft()
            if link.is_awaited:
                link.give_up()
