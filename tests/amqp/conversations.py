"""Random conversations, taken down turn by turn, and what one side makes of them: what it was told, what it answered.

A turn is what the peer says without waiting for an answer. Within one the bytes may arrive in any pieces.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, TypeAlias

from renewer.amqp import (
    EMPTY_FRAME,
    Accepted,
    AmqpError,
    Attach,
    AttachRequested,
    Connection,
    ConnectionOpened,
    ConnectionState,
    CreditChanged,
    Delivery,
    DeliveryReceived,
    DeliveryUpdated,
    Disposition,
    Event,
    Flow,
    FrameReader,
    FrameType,
    LinkAttached,
    LinkDetached,
    LinkRefused,
    Modified,
    ReceiverLink,
    Released,
    Role,
    SaslAnonymous,
    SaslServer,
    SenderLink,
    Session,
    SessionEnded,
    SessionOpened,
    SessionState,
    Source,
    Target,
    Transfer,
    decode_performative,
)

RoleName: TypeAlias = Literal["client", "server"]
Told: TypeAlias = tuple[Any, ...]
Answered: TypeAlias = dict[tuple[Any, ...], list[Any]]
FREELY = "free"
"""In such a session nothing is sent before there is credit for all, and deliveries are settled later. In others credit
is short, and what waits for it goes out earlier or later among the others: there all is settled from the start."""
_SIZES = (0, 1, 17, 300, 3_000, 4_090, 9_000, 40_000)


@dataclass
class Side:
    """How one side is set up, the same in each play of a conversation."""

    role: RoleName
    max_frame_size: int
    window: int
    sasl: bool

    def connection(self) -> Connection:
        sasl = (SaslAnonymous() if self.role == "client" else SaslServer(["ANONYMOUS"])) if self.sasl else None
        return Connection(
            role=self.role,
            container_id=self.role,
            max_frame_size=self.max_frame_size,
            incoming_window=self.window,
            sasl=sasl,
            now=0.0,
        )


class Application:
    """Says at once, to what it is told, what it has to say. Settles all, and sends back what it gets."""

    def __init__(self, connection: Connection, window: int) -> None:
        self.connection = connection
        self.told: list[Told] = []
        self._window = window
        self._senders: dict[Session, list[SenderLink]] = defaultdict(list)

    def __call__(self, event: Event) -> None:
        self.told.append(_in_words(event))
        match event:
            case ConnectionOpened() if self._may_ask:
                for _ in range(2):
                    self.connection.open_session(incoming_window=self._window)
            case SessionOpened(session) if self._may_ask and session.state is SessionState.MAPPED:
                kind = _kind(session)
                for number in range(2):
                    session.attach_sender(f"{kind}-to-{number}", source=Source("here"), target=Target("there"))
                session.attach_receiver(
                    f"{kind}-from", source=Source("there"), target=Target("here"), auto_credit=4 + session.channel
                )
            case AttachRequested(ReceiverLink() as link):
                link.accept(auto_credit=3 + len(link.name))
            case AttachRequested(SenderLink() as link) | LinkAttached(SenderLink() as link):
                link.accept()  # Does nothing where it was we who asked.
                if not link.name.startswith(FREELY):
                    self._use(link)
            case CreditChanged(SenderLink() as link) if link not in self._senders[link.session]:
                self._use(link)
            case DeliveryReceived(link, delivery):
                link.settle(delivery, Accepted() if len(delivery.payload) % 2 else Released())
                senders = self._senders[link.session]
                if senders:
                    back = senders[len(self.told) % len(senders)]
                    back.send(delivery.payload[::-1], settled=not back.name.startswith(FREELY))
            case DeliveryUpdated(SenderLink() as link, delivery, state, settled) if not settled:
                link.settle(delivery, state)
            case _:
                pass

    def _use(self, link: SenderLink) -> None:
        self._senders[link.session].append(link)
        link.send(b"welcome", settled=not link.name.startswith(FREELY))

    @property
    def _may_ask(self) -> bool:
        """What came in one piece is told when all of it was taken in: it may be over already."""
        return self.connection.role == "client" and self.connection.state is ConnectionState.OPENED


@dataclass
class Conversation:
    """What the peer said in each turn, and how the other side was set up."""

    side: Side
    turns: list[bytes] = field(default_factory=list)

    def ends(self) -> list[int]:
        """Where each of the frames and headers ends, counted over all turns."""
        said = b"".join(self.turns)
        ends, at = [], 0
        while at < len(said):
            at += 8 if said[at : at + 4] == b"AMQP" else int.from_bytes(said[at : at + 4], "big")
            ends.append(at)
        return ends


class Peer:
    """The side whose words are taken down: does things at random, each of which is allowed."""

    def __init__(self, random: Random, side: Side) -> None:
        self.connection = side.connection()
        self._random = random
        self._sessions: list[Session] = []
        self._links: list[SenderLink | ReceiverLink] = []
        self._requests: list[AttachRequested] = []
        self._unsettled: list[tuple[ReceiverLink, Delivery]] = []
        self._names = 0

    def hear(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case SessionOpened(session):
                    self._sessions.append(session)
                case AttachRequested():
                    self._requests.append(event)
                case LinkAttached(link):
                    assert isinstance(link, SenderLink | ReceiverLink)
                    self._links.append(link)
                case LinkDetached(link) | LinkRefused(link) if link in self._links:
                    self._links.remove(link)
                case DeliveryReceived(link, delivery) if not delivery.settled:
                    self._unsettled.append((link, delivery))
                case _:
                    pass

    def act(self) -> None:
        """Something for one turn. What takes something away has a turn of its own: what is lost by it would hang on
        what had been heard before."""
        if self._random.random() < 0.12 and self._take_away():
            return
        for _ in range(self._random.choice((1, 1, 2, 5, 12))):
            self._do_one()

    def _take_away(self) -> bool:
        sessions = [session for session in self._sessions if session.state is SessionState.MAPPED]
        if self._random.random() < 0.2 and sessions:
            session = self._random.choice(sessions)
            session.end(AmqpError("amqp:internal-error", "enough"))
            self._links = [link for link in self._links if link.session is not session]
            return True
        if self._links:
            link = self._random.choice(self._links)
            self._links.remove(link)
            link.detach(closed=self._random.random() < 0.5)
            return True
        return False

    def _do_one(self) -> None:
        random = self._random
        sessions = [session for session in self._sessions if session.state is SessionState.MAPPED]
        match random.randrange(10):
            case 0 if self.connection.role == "client" and len(self._sessions) < 4 and self.connection.remote_open:
                self.connection.open_session()
            case 1 | 2 if sessions and self.connection.role == "client":
                self._attach(random.choice(sessions))
            case 3:
                self.connection._outlet.output += EMPTY_FRAME
            case 4 if sessions:
                session = random.choice(sessions)
                session.send_flow()
            case 5 if self._unsettled:
                link, delivery = self._unsettled.pop(random.randrange(len(self._unsettled)))
                link.settle(delivery, Modified(delivery_failed=True), settled=random.random() < 0.7)
            case 6 if receivers := [link for link in self._links if isinstance(link, ReceiverLink)]:
                link = random.choice(receivers)
                if not link.name.startswith(FREELY):
                    link.flow(link.credit + random.randrange(3))  # Less could come before or after what it forbids.
            case _ if self._requests:
                request = self._requests.pop(0).link
                if request.session.state is SessionState.MAPPED:
                    if isinstance(request, ReceiverLink):
                        request.accept(credit=10_000 if request.name.startswith(FREELY) else random.randrange(4))
                    else:
                        request.accept()
                    self._links.append(request)
            case _ if senders := [link for link in self._links if isinstance(link, SenderLink) and link.credit]:
                for _ in range(random.choice((1, 1, 3, 20))):
                    link = random.choice(senders)
                    if link.credit > link.queued:
                        size = random.choice(_SIZES[: random.choice((4, 6, 8))])
                        link.send(random.randbytes(size), settled=random.random() < 0.5)
            case _:
                pass

    def _attach(self, session: Session) -> None:
        self._names += 1
        name = f"{_kind(session)}-{self._names}"
        if self._random.random() < 0.5:
            session.attach_sender(name, source=Source("there"), target=Target("here"))
        else:
            credit = 10_000 if _kind(session) == FREELY else self._random.randrange(4)
            session.attach_receiver(name, source=Source("here"), target=Target("there"), credit=credit)


def converse(random: Random, role: RoleName, *, turns: int = 8) -> Conversation:
    """Have a peer talk to that side, and take down what it says."""
    sasl = random.random() < 0.7
    side = Side(role, random.choice((512, 1_000, 4_096, 65_536)), random.choice((3, 20, 2_048)), sasl)
    peer_role: RoleName = "server" if role == "client" else "client"
    peer = Peer(random, Side(peer_role, random.choice((512, 4_096, 65_536)), 1 << 20, sasl))
    connection = side.connection()
    application = Application(connection, side.window)
    conversation = Conversation(side)
    peer.hear(peer.connection.receive(connection.take_output(0.0), 0.0))
    while True:
        said = peer.connection.take_output(0.0)
        if not said and turns == 0:
            return conversation
        if not said:
            turns -= 1
            peer.act()
            continue
        conversation.turns.append(said)
        for event in connection.receive(said, 0.0):
            application(event)
        peer.hear(peer.connection.receive(connection.take_output(0.0), 0.0))
        peer.hear(peer.connection.advance(0.0))


def frame_by_frame(side: Side, said: bytes, ends: list[int]) -> tuple[list[Told], bytes]:
    """What is made of it by one who hears each frame by itself, and then that nothing more comes."""
    connection = side.connection()
    application = Application(connection, side.window)
    answered = connection.take_output(0.0)
    for start, end in zip([0, *ends], [*ends, len(said)], strict=True):
        for event in connection.receive(said[start:end], 0.0):
            application(event)
        answered += connection.take_output(0.0)
    for event in connection.receive_eof(0.0):
        application(event)
    return application.told, answered + connection.take_output(0.0)


def answers(output: bytes) -> Answered:
    """What was said, each kind in its order. What an application says comes after all that it was told of at once, so
    that the order among the kinds depends on how much came at once; and so do the numbers that count the other kinds.
    """
    said: Answered = defaultdict(list)
    senders: set[tuple[int, int]] = set()
    reader = FrameReader(1 << 20)
    unfinished: dict[tuple[int, int], tuple[Any, bytes]] = {}
    while output[:4] == b"AMQP":
        said["header",].append(output[:8])
        output = output[8:]
        while output and output[:4] != b"AMQP" and output[5] == FrameType.SASL:
            size = int.from_bytes(output[:4], "big")
            said["sasl",].append(output[:size])
            output = output[size:]
    reader.feed(output)
    for frame in reader:
        performative, at = decode_performative(frame.body)
        match performative:
            case Transfer():
                link = frame.channel, performative.handle
                head = performative.delivery_tag, performative.settled
                tag, payload = unfinished.pop(link, (head, b""))
                payload += frame.body[at:]
                if performative.more:
                    unfinished[link] = tag, payload
                else:
                    said["delivery", *link].append((tag, payload))
            case Flow(handle=None):
                pass
            case Flow() if (frame.channel, performative.handle) in senders:
                pass
            case Flow():
                flow = performative.delivery_count, performative.link_credit, performative.drain
                said["flow", frame.channel, performative.handle].append(flow)
            case Disposition(role=role):
                said["disposition", frame.channel, role].append(performative)
            case Attach():
                if performative.role is Role.SENDER:
                    senders.add((frame.channel, performative.handle))
                said["attach", frame.channel].append(performative)
            case _:
                said[type(performative).__name__,].append((frame.channel, performative))
    assert (len(reader), unfinished) == (0, {})
    return dict(said)


def _kind(session: Session) -> str:
    return FREELY if session.channel % 2 else "tight"


def _in_words(event: Event) -> Told:
    name = type(event).__name__
    match event:
        case DeliveryReceived(link, delivery):
            return name, link.session.channel, link.name, delivery.delivery_tag, delivery.payload
        case DeliveryUpdated(link, delivery, state, settled):
            return name, link.session.channel, link.name, delivery.delivery_tag, repr(state), settled
        case LinkDetached(link, error, closed, by_us):
            return name, link.session.channel, link.name, repr(error), closed, by_us
        case AttachRequested(link, remote) | LinkAttached(link, remote):
            return name, link.session.channel, link.name, repr(remote)
        case CreditChanged(link):
            return name, link.session.channel, link.name
        case SessionOpened(session):
            return name, session.channel
        case SessionEnded(session, error):
            return name, session.channel, repr(error)
        case _:
            return name, repr(event)
