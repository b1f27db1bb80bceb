"""The gateway's own AMQP session beside the worker's, on the last channel of the connection to the broker.

Renewals and tokens go over it, so that the worker's ids, windows and links are left alone. It is begun when there is
first something to ask. What the broker does wrong there ends this session and no other: the next request begins anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, assert_never

import anyio
import structlog

from renewer.amqp import (
    AmqpError,
    Begin,
    ConnectionClosed,
    ConnectionOpened,
    CreditChanged,
    DeliveryReceived,
    DeliveryUpdated,
    End,
    LinkAttached,
    LinkDetached,
    Session,
    SessionEnded,
    SessionOpened,
    decode_performative,
)
from renewer.amqp.events import AttachRequested
from renewer.amqp.outlet import Outlet
from renewer.core.timing import full_jitter_s
from renewer.errors import AmqpProtocolError, TransientError
from renewer.targets.servicebus.cbs import Tokens
from renewer.targets.servicebus.channels import OUR_HANDLE_MAX, Channel, NoRoomError
from renewer.targets.servicebus.links import Links
from renewer.targets.servicebus.management import Management
from renewer.targets.servicebus.verdicts import copy_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine

    from renewer.amqp import Event, Link
    from renewer.errors import RemoteError
    from renewer.gateway.ledgers import SpareWay
    from renewer.ports import Clock
    from renewer.targets.servicebus.credentials import EntityToken, TokenProvider
    from renewer.targets.servicebus.links import LinkOwner
    from renewer.targets.servicebus.options import NamespaceOptions

WINDOW: Final = 256
"""Frames of replies that may be under way to us."""

MAX_UNFINISHED_BYTES: Final = 1024 * 1024
"""Bytes of replies that are not complete yet; what is asked here has short answers."""

MOST_TOKENS: Final = 256
"""Tokens that are looked after on one connection; a worker that puts more has to refresh the others itself."""

LINGER_S: Final = 300.0
"""How long the links to a management node stay after the last request; the longest lock is renewed sooner than that."""

LOOK_S: Final = 0.5
"""How often tokens and links are looked after at most."""

NO_CHANNEL: Final = (
    "the broker and the worker's SDK leave no AMQP channel free on this connection, so that nothing can be renewed "
    "beside the worker"
)

log = structlog.get_logger("renewer.gateway")


class SpareChannel:
    """Requests and tokens of the gateway's own on one connection: a `Carrier`. `tick` it every now and then.

    `spawn` runs what has to wait for answers. Who has it calls `close` when the connection is over.
    """

    __slots__ = (
        "_channel",
        "_clock",
        "_ended",
        "_entities",
        "_is_token_trouble_told",
        "_is_unreadable_told",
        "_links",
        "_looked_at",
        "_outlet",
        "_rng",
        "_session",
        "_spawn",
        "_tokens",
        "_trouble",
        "_way",
        "_window",
        "answer_timeout_s",
        "name",
    )

    def __init__(
        self,
        way: SpareWay,
        options: NamespaceOptions,
        provider: TokenProvider,
        clock: Clock,
        rng: random.Random,
        *,
        name: str,
        spawn: Callable[..., None],
    ) -> None:
        self.name = name
        """The gateway's, for the log."""
        self.answer_timeout_s = options.connect_timeout_s
        self._way = way
        self._clock = clock
        self._rng = rng
        self._spawn = spawn
        self._window = options.request_window
        self._outlet = Outlet(MAX_UNFINISHED_BYTES)
        self._outlet.remote_max_frame_size = way.max_frame_size
        self._session: Session | None = None
        self._channel: Channel | None = None
        self._ended: anyio.Event | None = None
        """Set when the broker has ended the session that we gave up; None while there is no such."""
        self._links = Links()
        self._tokens = Tokens(self, provider, options.audience)
        self._entities: dict[str, _Entity] = {}
        self._trouble: RemoteError | None = None
        self._is_token_trouble_told = False
        self._is_unreadable_told = False
        self._looked_at = -LOOK_S
        way.on_frame = self._on_frame

    @property
    def is_possible(self) -> bool:
        """Whether the peers left a channel for us."""
        return self._way.channel is not None

    @property
    def is_begun(self) -> bool:
        """Whether there is an AMQP session of ours."""
        return self._session is not None

    def management(self, entity: str) -> Management:
        """Requests for the entity. TransientError where there is no channel for them, or no connection any longer."""
        if self._trouble is not None:
            raise copy_of(self._trouble)
        if not self.is_possible:
            raise TransientError(NO_CHANNEL, kind="refused")
        use = self._entities.get(entity)
        if use is None:
            use = self._entities[entity] = _Entity(Management(self, entity, self._tokens, window=self._window))
        use.used_at = self.now()
        return use.management

    def adopt(self, entity: str, token: EntityToken) -> None:
        """The worker has put this token of ours: from now on it is replaced here when that is due."""
        if self._trouble is None and (self._tokens.knows(entity) or self._tokens.count < MOST_TOKENS):
            self._tokens.adopt(entity, token)

    def has_run_out(self, entity: str) -> bool:
        """See `Tokens.has_run_out`."""
        return self._tokens.has_run_out(entity)

    def remedy(self, entity: str) -> str:
        """See `Tokens.remedy`."""
        return self._tokens.remedy(entity)

    def tick(self, now: float) -> None:
        """Put tokens that are due, send what waits, and let go of links that nobody uses."""
        if now < self._looked_at + LOOK_S or self._trouble is not None or not self.is_possible:
            return
        self._looked_at = now
        self._tokens.refresh()
        self._tokens.pump()
        unused = [entity for entity, use in self._entities.items() if not use.is_wanted(now)]
        for entity in unused:
            self._entities.pop(entity).management.close(TransientError("the entity is not in use", kind="network"))

    def close(self, error: RemoteError) -> None:
        """The connection is over: fail what is under way with `error`, and send nothing more."""
        if self._trouble is not None:
            return
        self._trouble = error
        self._way.on_frame = None
        self._outlet.is_shut = True
        if self._channel is not None:
            self._channel.is_gone = True
            self._channel.ready.set()
        self._session = self._channel = None
        self._end_awaited()
        self._tokens.close(error)
        for use in self._entities.values():
            use.management.close(error)
        self._entities.clear()
        self._links.close()

    # Carrier --------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock.now()

    async def place_requests(self, count: int) -> Channel:
        """See `Carrier`. Begins our session if there is none."""
        with anyio.move_on_after(self.answer_timeout_s):
            channel = await self._ready_channel()
            if channel.used + count > channel.cap:
                raise NoRoomError
            channel.used += count
            return channel
        raise TransientError("the broker did not open an AMQP session in time", kind="timeout")

    def own(self, link: Link, owner: LinkOwner, channel: Channel) -> None:
        """See `Carrier`."""
        self._links.own(link, owner, channel)

    def flush(self, *, for_renewals: bool = False) -> None:
        """See `Carrier`."""
        outlet = self._outlet
        while outlet.at_rest:
            outlet.at_rest.popitem()[0]()
        if outlet.output:
            frames = bytes(outlet.output)
            outlet.output.clear()
            self._way.send(frames)

    def spawn(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """See `Carrier`."""
        self._spawn(work, *args)

    def backoff_s(self, failures: int, *, base_s: float, cap_s: float) -> float:
        """See `Carrier`."""
        return full_jitter_s(failures, self._rng.random(), base_s=base_s, cap_s=cap_s)

    def answered(self) -> None:
        """See `Carrier`: nothing is chosen here by who answers."""

    def unanswered(self) -> None:
        """See `Carrier`: nothing is chosen here by who does not answer."""

    def dropped_reply(self, node: str) -> None:
        """See `Carrier`."""
        log.debug("reply dropped", gateway=self.name, node=node)

    def unreadable_reply(self, node: str, error: AmqpProtocolError) -> None:
        """See `Carrier`. Told once a connection."""
        if not self._is_unreadable_told:
            self._is_unreadable_told = True
            log.warning("reply not readable", gateway=self.name, node=node, error=str(error))

    def token_not_refreshed(self, entity: str, error: RemoteError, left_s: float) -> None:
        """See `Carrier`. Told once a connection: a credential that fails does so on all of them, again and again."""
        if not self._is_token_trouble_told:
            self._is_token_trouble_told = True
            log.warning(
                "token not refreshed", gateway=self.name, entity=entity, error=str(error), ends_in_s=round(left_s)
            )

    # Our session ----------------------------------------------------------------------------------------------------

    async def _ready_channel(self) -> Channel:
        while True:
            if self._trouble is not None:
                raise copy_of(self._trouble)
            if self._ended is not None:
                # The number is free once the broker has ended its side too.
                await self._ended.wait()
                continue
            channel = self._channel or self._begin()
            await channel.ready.wait()
            if channel is self._channel:
                return channel
            if self._trouble is None:
                raise TransientError("the AMQP session ended", kind="network")

    def _begin(self) -> Channel:
        number = self._way.channel
        if number is None:
            raise TransientError(NO_CHANNEL, kind="refused")
        session = Session(self._outlet, number, takes_requests=False, incoming_window=WINDOW, handle_max=OUR_HANDLE_MAX)
        self._session = session
        self._channel = Channel(session, is_control=True, cap=0, on_free=_nothing)
        session.begin(None)
        self.flush()
        return self._channel

    def _on_frame(self, body: bytes) -> None:
        if self._trouble is not None:
            return
        try:
            performative, offset = decode_performative(body)
            session = self._session
            if session is None:
                # Of the session that we ended all that counts is that the broker has ended it too.
                if isinstance(performative, End):
                    self._end_awaited()
                return
            match performative:
                case Begin():
                    if session.remote is not None:
                        raise AmqpProtocolError("a second begin on our channel", condition="amqp:not-allowed")
                    session.on_begin(session.channel, performative)
                case End():
                    session.on_end(performative)
                case _:
                    session.handle_frame(performative, body[offset:])
        except AmqpProtocolError as error:
            self._give_up(error)
        self._tell()

    def _tell(self) -> None:
        outlet = self._outlet
        while outlet.events:
            events, outlet.events = outlet.events, []
            for event in events:
                self._on_event(event)
        if outlet.fatal is not None:
            error, outlet.fatal = outlet.fatal, None
            self._give_up(error)
            self._tell()
        self.flush()

    def _on_event(self, event: Event) -> None:
        match event:
            case DeliveryReceived() | DeliveryUpdated() | CreditChanged() | LinkAttached() | LinkDetached():
                self._links.on_event(event, is_over=False)
            case SessionOpened(session):
                channel = self._channel
                if channel is not None and channel.session is session:
                    channel.cap = min(session.handle_max, session.remote_handle_max or 0) + 1
                    channel.ready.set()
            case SessionEnded(session):
                channel = self._channel
                if channel is not None and channel.session is session:
                    self._session = self._channel = None
                    channel.is_gone = True
                    channel.ready.set()
            case ConnectionOpened() | ConnectionClosed() | AttachRequested():
                pass
            case _:
                assert_never(event)

    def _give_up(self, error: AmqpProtocolError) -> None:
        """End our session for a fault of the broker's; links and requests are told at once."""
        session = self._session
        if session is None:
            return
        log.warning("broker broke the protocol beside a worker", gateway=self.name, error=str(error))
        session.end(AmqpError(error.condition, str(error)))
        session.go_down(None)
        self._ended = anyio.Event()

    def _end_awaited(self) -> None:
        if self._ended is not None:
            self._ended.set()
            self._ended = None


class _Entity:
    __slots__ = ("management", "used_at")

    def __init__(self, management: Management) -> None:
        self.management = management
        self.used_at = 0.0

    def is_wanted(self, now: float) -> bool:
        """Whether the links to the entity are to stay; also sends what waits for them."""
        if self.management.pending:
            self.management.pump()
            self.used_at = now
        return now - self.used_at <= LINGER_S


def _nothing() -> None:
    """A handle that becomes free concerns nobody: requests share the links that there are."""
