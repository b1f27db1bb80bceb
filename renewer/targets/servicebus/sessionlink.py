"""One session receiver: the link that holds a session, from attach to detach."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import anyio.lowlevel

from renewer.amqp import Described, Received, Released, SessionState, Source, Symbol, Target, Uint
from renewer.errors import AmqpProtocolError, LeaseLostError, RemoteError, TransientError
from renewer.targets.servicebus.ceilings import OUR_LIMIT
from renewer.targets.servicebus.lockclock import from_ticks
from renewer.targets.servicebus.verdicts import attach_refused, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.amqp import AmqpError, Attach, Delivery, DeliveryState, ReceiverLink
    from renewer.targets.servicebus.channels import Channel
    from renewer.targets.servicebus.connection import BrokerConnection

SESSION_FILTER: Final = Symbol("com.microsoft:session-filter")
LOCKED_UNTIL: Final = Symbol("com.microsoft:locked-until-utc")
_RECEIVER_NAME: Final = Symbol("com.microsoft:receiver-name")
_TIMEOUT: Final = Symbol("com.microsoft:timeout")

REASON_S: Final = 0.25
"""How long the detach that says why is waited for after an attach that does not look like a grant. Who refuses as the
standard has it (part 2.6.3) attaches without a source; others attach as if they granted, and then detach. After this
time a link without a session is detached by us, and a grant that does not say until when is believed."""

ANSWER_S: Final = 1.0
"""How long the answer to that detach of ours is waited for: it may say why, or one that was sent before it arrived."""


class Stage(Enum):
    """Where a session receiver is."""

    ATTACHING = "attaching"
    HELD = "held"
    LETTING_GO = "letting go"
    GONE = "gone"


class LinkUser(Protocol):
    """Who receives what comes over a link that is held."""

    def on_delivery(self, delivery: Delivery) -> None:
        """A message arrived."""

    def on_updated(self, delivery: Delivery, state: DeliveryState | None) -> None:
        """The broker said what became of a message that it had sent; nothing more will be heard of that."""

    def on_drained(self) -> None:
        """The broker has no more messages for now, and has given back what credit was left."""


class SessionLink:
    """Holds one session on one connection, from `attach` or `ask` on until it is gone.

    `wanted` is the session id, None for the next available one. Once it is held the granted id is in `session_id`, and
    the broker's word on the lock in `locked_until` (epoch seconds, None if it gave none). Moments are monotonic.
    """

    __slots__ = (
        "_gone",
        "_link",
        "_settled",
        "_wanted",
        "carrier",
        "entity",
        "granted_at",
        "locked_until",
        "name",
        "refusal",
        "sent_at",
        "session_id",
        "stage",
        "user",
    )

    def __init__(self, carrier: BrokerConnection, entity: str, wanted: str | None) -> None:
        self.carrier = carrier
        self.entity = entity
        self.name = carrier.new_link_name()
        self.session_id = wanted
        self.locked_until: float | None = None
        self.sent_at = 0.0
        self.granted_at = 0.0
        self.stage = Stage.ATTACHING
        self.user: LinkUser | None = None
        self.refusal: RemoteError | None = None
        """Why the session cannot be had, once that is known. What the broker says when it detaches takes its place."""
        self._wanted = wanted
        self._link: ReceiverLink | None = None
        # An event takes as much memory as all of this: they are there while somebody waits for them.
        self._settled: Callable[[], None] | None = None
        self._gone: anyio.Event | None = None

    async def attach(
        self, channel: Channel, address: str, *, server_timeout_s: float, timeout_s: float, max_message_size: int
    ) -> None:
        """Take the session on a channel where a handle is reserved. A message beyond the size costs the session.

        LeaseLostError or TransientError when it cannot be had. Whatever is raised, the link is given up; it may hold
        its handle until the broker has answered.
        """
        settled = anyio.Event()
        self.ask(channel, address, settled.set, server_timeout_s=server_timeout_s, max_message_size=max_message_size)
        try:
            with anyio.move_on_after(timeout_s) as scope:
                await settled.wait()
            if scope.cancelled_caught:
                self.give_up()
            if self.refusal is not None:
                raise self.refusal
            # Whoever has been cancelled while the grant was on its way takes no notice of it.
            await anyio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            self.let_go()
            raise
        finally:
            self._settled = None

    def ask(
        self,
        channel: Channel,
        address: str,
        settled: Callable[[], None],
        *,
        server_timeout_s: float,
        max_message_size: int,
    ) -> None:
        """Begin to take it; `settled` is called once it is held, or known why not (`refusal`), unless it is let go.

        TransientError, and the handle is given back, if it cannot be asked for.
        """
        properties: dict[object, object] = {_RECEIVER_NAME: self.name}
        if self._wanted is None:
            properties[_TIMEOUT] = Uint(1000 * server_timeout_s)
        self.sent_at = self.carrier.now()
        try:
            self._link = channel.session.attach_receiver(
                self.name,
                source=Source(address=address, filter={SESSION_FILTER: self._wanted}),
                target=Target(address=f"receiver-link-{self.name}"),
                snd_settle_mode=0,
                rcv_settle_mode=1,
                credit=0,
                properties=properties,
                max_message_size=max_message_size,
            )
        except AmqpProtocolError as error:
            channel.free()
            raise TransientError(f"the session could not be asked for: {error}", kind="network") from error
        self._settled = settled
        self.carrier.own(self._link, self, channel)
        self.carrier.flush()

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for the broker's answer."""
        return self._settled is not None

    def give_up(self) -> None:
        """The broker has had its time to answer: it is not waited for any longer, and the link is given up."""
        if self._wanted is not None and not self.granted_at:
            self.carrier.unanswered()
        if self.refusal is None:
            self.refusal = TransientError("the session was not granted in time", kind="timeout")
        self._settle()
        self.let_go()

    def let_go(self) -> None:
        """Detach, so that the broker frees the session. What is then heard of the link is no loss."""
        if self.stage is Stage.GONE:
            return
        self.stage = Stage.LETTING_GO
        self._settled = None
        if self._link is not None:
            self._link.detach(closed=True)
            self.carrier.flush()

    async def wait_gone(self, timeout_s: float) -> bool:
        """Wait for the broker to confirm that the link is gone; False if that takes too long."""
        if self._link is None or self.stage is Stage.GONE:
            return True
        gone = self._gone
        if gone is None:
            gone = self._gone = anyio.Event()
        with anyio.move_on_after(timeout_s):
            await gone.wait()
        return gone.is_set()

    # Messages -------------------------------------------------------------------------------------------------------

    @property
    def credit(self) -> int:
        """How many messages the broker may still send."""
        return 0 if self._link is None else self._link.credit

    def flow(self, credit: int, *, drain: bool = False) -> None:
        """Let the broker send so many messages from now; with `drain` at once or not at all."""
        if self._link is not None and self.stage is Stage.HELD:
            self._link.flow(credit, drain=drain)
            self.carrier.flush()

    def tell_together(self, tell: Callable[[], None]) -> None:
        """Have that called once all is told that came in with what is being told now."""
        self.carrier.tell_together(tell)

    def settle(self, delivery: Delivery, state: DeliveryState) -> None:
        """Tell the broker what is to become of a message; its answer comes as `LinkUser.on_updated`.

        AmqpProtocolError, and nothing is sent, if the state is too large for a frame.
        """
        if self._link is not None:
            self._link.settle(delivery, state, settled=False)
            self.carrier.flush()

    # Events of the link ---------------------------------------------------------------------------------------------

    def on_attached(self, remote: Attach) -> None:
        """The broker granted a session, or so it seems; whether it is the right one is to be seen."""
        if self.stage is not Stage.ATTACHING:
            return
        self.carrier.answered()
        self.granted_at = self.carrier.now()
        if self._link is None or not self._link.is_attached:
            return  # The detach came right behind, and is told next.
        self.locked_until = from_ticks((remote.properties or {}).get(LOCKED_UNTIL))
        try:
            self.session_id = self._granted_id(remote)
        except RemoteError as error:
            self.refusal = error
        if self.refusal is None and self.locked_until is not None:
            self._hold()
        else:
            self.carrier.spawn(self._await_reason)

    def on_detached(self, error: AmqpError | None, *, by_us: bool) -> None:
        """The link is gone: refused, lost, or given up."""
        stage, self.stage = self.stage, Stage.GONE
        if self._gone is not None:
            self._gone.set()
        if stage is Stage.ATTACHING:
            self.carrier.answered()
            self.refusal = self.carrier.trouble() or self._refused(error)
            self._settle()
        elif stage is Stage.HELD:
            self.refusal = self.carrier.trouble() or self._refused(error)
            self.carrier.lost(self, error)
        self.user = None  # Who refers to us as well: a cycle would be left to the collector.

    def _hold(self) -> None:
        self.stage = Stage.HELD
        if self._link is not None:
            self._link.forget_terms()
        self._settle()

    async def _await_reason(self) -> None:
        """Give the broker time to say why it does not grant the session, if so; then believe its attach."""
        await anyio.sleep(REASON_S)
        if self.stage is Stage.ATTACHING and self.refusal is None:
            self._hold()
        elif self.stage is Stage.ATTACHING and self._link is not None:
            self._link.detach(closed=True)
            self.carrier.flush()
            await anyio.sleep(ANSWER_S)
            self._settle()

    def _settle(self) -> None:
        settled, self._settled = self._settled, None
        if settled is not None:
            settled()

    def _refused(self, error: AmqpError | None) -> RemoteError:
        if self._link is not None and self._link.session.state is SessionState.ENDED:
            # It fell with all others there: that says nothing about the one that was asked for.
            return TransientError(f"the AMQP session ended: {describe(error, 'no reason given')}", kind="network")
        if error is None and self.refusal is not None:
            return self.refusal
        return attach_refused(error, any_session=self._wanted is None)

    def on_delivery(self, delivery: Delivery) -> None:
        """A message arrived; one that nobody is there for goes back."""
        if self.user is not None:
            self.user.on_delivery(delivery)
        elif self._link is not None:
            self._link.settle(delivery, Released())

    def on_updated(self, delivery: Delivery, state: DeliveryState | None, *, settled: bool) -> None:
        """The broker settled a message, or, for want of manners, wants us to."""
        if not settled:
            if state is None or isinstance(state, Received) or self._link is None:
                return
            self._link.settle(delivery, state)
        if self.user is not None:
            self.user.on_updated(delivery, state)

    def on_credit(self) -> None:
        """The link is drained."""
        if self.user is not None:
            self.user.on_drained()

    def _granted_id(self, remote: Attach) -> str:
        source = remote.source
        filters = (source.filter if isinstance(source, Source) else None) or {}
        granted = filters.get(SESSION_FILTER)
        if isinstance(granted, Described):
            granted = granted.value
        if isinstance(granted, str):
            if self._wanted is None:
                return str(granted)
            if granted != self._wanted:
                raise TransientError(
                    "the broker granted another session than the one asked for", kind="busy", condition=OUR_LIMIT
                )
            return self._wanted  # Not the same again: there are thousands.
        if self._wanted is not None and self.locked_until is not None:
            return self._wanted
        raise LeaseLostError("the broker attached the link without a session", reason="refused")
