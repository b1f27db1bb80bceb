"""What can be done with a session while it is held: its state, its messages, and what becomes of them.

When a session is released, its messages in flight go back with the link as they were: their delivery count does not
rise, and their order stays. When it is lost, they are remembered as lost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import anyio

from renewer.core.states import LossReason
from renewer.errors import ConflictError, LeaseLostError, RemoteError, RenewerError, TransientError, UsageError
from renewer.targets.servicebus.deliveries import Deliveries
from renewer.targets.servicebus.intake import Intake
from renewer.targets.servicebus.locktokens import without_token
from renewer.targets.servicebus.managementops import (
    get_session_state,
    peek_messages,
    read_messages,
    read_session_state,
    receive_deferred_messages,
    set_session_state,
)
from renewer.targets.servicebus.requests import MAX_REPLY_SIZE
from renewer.targets.servicebus.settler import Settler
from renewer.targets.servicebus.verdicts import MESSAGE_LOCK_LOST, MESSAGE_NOT_FOUND, TOO_LARGE, copy_of, passing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from renewer.amqp import Delivery, DeliveryState
    from renewer.messages import InFlight, ReceivedMessage
    from renewer.ports import Settlement
    from renewer.targets.servicebus.deliveries import Past
    from renewer.targets.servicebus.envelope import Reply, Template
    from renewer.targets.servicebus.sessionlink import SessionLink

ASK_TIMEOUT_S: Final = 10.0
"""How long the broker may take to answer a request."""

MAX_COUNT: Final = 100
"""Messages that may be asked for at a time."""

MAX_IN_FLIGHT: Final = 1000
"""Messages of one session that may be received and not settled."""

_REPLY_SLACK: Final = 64 * 1024
_TOKEN_SIZE: Final = 16


class HeldSession:
    """One session, from the grant of its lock to its end, which is told by `end`.

    `on_lock_lost(link, detail)` is called when the broker answers that the lock is gone.
    """

    __slots__ = ("_ended", "_epoch", "_limit", "_link", "_on_lock_lost", "_traffic")

    def __init__(
        self,
        link: SessionLink,
        epoch: int,
        *,
        message_size_limit: int,
        on_lock_lost: Callable[[SessionLink, str], None],
    ) -> None:
        self._link = link
        self._limit = message_size_limit
        self._on_lock_lost = on_lock_lost
        self._epoch = epoch
        self._traffic: _Traffic | None = None
        self._ended: Callable[[], RenewerError] | None = None
        link.user = self

    @property
    def end_error(self) -> RenewerError | None:
        """What whoever waits is to be told once it was lost or released; None while it is held."""
        return None if self._ended is None else self._ended()

    def end(self, error: Callable[[], RenewerError]) -> Past | None:
        """The session is lost or released: `error()` is raised for all who wait. None if it was over before."""
        if self._ended is not None:
            return None
        self._ended = error
        if self._traffic is None:
            return Deliveries(self._epoch).end()
        self._traffic.intake.end(error)
        return self._traffic.deliveries.end()

    # State ----------------------------------------------------------------------------------------------------------

    async def get_state(self) -> bytes | None:
        """The session's state; None if it has none. ConflictError if it is larger than what we take."""
        link = self._link
        ask = get_session_state(
            link.entity, link_name=link.name, session_id=link.session_id or "", timeout_s=ASK_TIMEOUT_S
        )
        try:
            return read_session_state(await self.ask(ask, "the session's state was not sent in time"))
        except TransientError as error:
            if error.condition == TOO_LARGE:
                raise ConflictError(
                    f"the session's state does not fit into {MAX_REPLY_SIZE} bytes, and no more is taken; "
                    "read it with a client of the broker"
                ) from error
            raise

    async def set_state(self, state: bytes | None) -> None:
        """Replace the session's state; None clears it. UsageError if it is larger than the broker takes."""
        size = len(state or b"")
        if size > self._limit:
            raise UsageError(
                f"the state has {size} bytes, and message_size_limit allows {self._limit}: set that higher where the "
                "broker's tier takes more, or store the state elsewhere, and its place here"
            )
        link = self._link
        ask = set_session_state(
            link.entity, state, link_name=link.name, session_id=link.session_id or "", timeout_s=ASK_TIMEOUT_S
        )
        try:
            await self.ask(
                ask, "the broker did not confirm the session's state in time: it may be the old or the new one"
            )
        except TransientError as error:
            if error.condition == TOO_LARGE:
                limit = link.carrier.management(link.entity).max_request_size
                raise UsageError(_too_large(size, None if limit is None else limit - (ask.size - size))) from error
            raise

    # Receiving ------------------------------------------------------------------------------------------------------

    async def receive(self, count: int, wait_s: float) -> Sequence[ReceivedMessage]:
        """See `LeaseTarget.receive`."""
        _check_count(count)
        deliveries, intake = self._messages.deliveries, self._messages.intake
        room = MAX_IN_FLIGHT - len(deliveries)
        if room <= 0:
            raise ConflictError(f"{MAX_IN_FLIGHT} messages of the session are in flight; settle some of them first")
        arrivals = await intake.take(min(count, room), wait_s)
        try:
            messages = await self._link.carrier.sharing.read([arrival.delivery.payload for arrival in arrivals])
            self._check_held()
        except BaseException:
            intake.put_back(arrivals)
            raise
        intake.done_with(arrivals)
        received = []
        for arrival, message in zip(arrivals, messages, strict=True):
            delivery = arrival.delivery
            delivery.payload = b""
            handle = deliveries.add(delivery, _token_of(delivery), message.sequence_number)
            received.append(replace(message, handle=handle))
        return received

    async def receive_deferred(self, sequence_numbers: Sequence[int]) -> Sequence[ReceivedMessage]:
        """See `LeaseTarget.receive_deferred`."""
        numbers = list(dict.fromkeys(sequence_numbers))
        limit = answer_limit(self._limit)
        if not 0 < len(numbers) <= limit:
            raise UsageError(f"sequence_numbers: give 1 to {limit} of them, which fit into one answer of the broker")
        if not all(0 <= number < 2**63 for number in numbers):
            raise UsageError("sequence_numbers: give those that the messages had when they were received")
        if len(self._messages.deliveries) + len(numbers) > MAX_IN_FLIGHT:
            raise ConflictError(f"{MAX_IN_FLIGHT} messages of the session are in flight; settle some of them first")
        link = self._link
        ask = receive_deferred_messages(
            link.entity, numbers, timeout_s=ASK_TIMEOUT_S, session_id=link.session_id or "", link_name=link.name
        )
        fetch = _Fetch()
        link.carrier.spawn(self._fetch, ask, fetch)
        await fetch.done.wait()
        if isinstance(fetch.error, LeaseLostError) and fetch.error.condition == MESSAGE_NOT_FOUND:
            raise ConflictError(
                "sequence_numbers: not all of these are messages of the session that are deferred and free; "
                "none was received"
            ) from fetch.error
        if fetch.error is not None:
            raise fetch.error
        return fetch.messages

    async def peek(self, count: int, from_sequence_number: int) -> Sequence[ReceivedMessage]:
        """See `LeaseTarget.peek`."""
        _check_count(count)
        if not 0 <= from_sequence_number < 2**63:
            raise UsageError("from_sequence_number: give 0 for the first message, or one after a message's own")
        link = self._link
        ask = peek_messages(
            link.entity,
            from_number=from_sequence_number,
            count=min(count, answer_limit(self._limit)),
            timeout_s=ASK_TIMEOUT_S,
            session_id=link.session_id or "",
            link_name=link.name,
        )
        try:
            reply = await self.ask(ask, "the messages were not sent in time")
        except LeaseLostError as error:
            if error.condition == MESSAGE_NOT_FOUND:
                return []
            raise
        return await link.carrier.sharing.read([payload for payload, _ in read_messages(reply)])

    def in_flight(self) -> list[InFlight]:
        """What was received and is not settled."""
        return [] if self._traffic is None else self._traffic.deliveries.in_flight()

    async def settle(self, number: int, settlement: Settlement) -> None:
        """See `LeaseTarget.settle`; `number` is that in the handle."""
        await self._messages.settler.settle(number, settlement)

    # Events of the link ---------------------------------------------------------------------------------------------

    def on_delivery(self, delivery: Delivery) -> None:
        """A message came."""
        self._messages.intake.on_arrival(delivery)

    def on_updated(self, delivery: Delivery, state: DeliveryState | None) -> None:
        """The broker settled a message."""
        if self._traffic is not None and not self._traffic.settler.on_updated(delivery, state):
            self._traffic.intake.drop(delivery)

    def on_drained(self) -> None:
        """There are no more messages for now."""
        if self._traffic is not None:
            self._traffic.intake.on_drained()

    # Asking ---------------------------------------------------------------------------------------------------------

    def lock_lost(self, detail: str) -> None:
        """The broker says that the session is not ours any longer."""
        self._on_lock_lost(self._link, detail)

    async def ask(
        self, ask: Template, too_late: str, *, timeout_s: float | None = None, secret: UUID | None = None
    ) -> Reply:
        """Send a request and wait for the reply, which is a success.

        LeaseLostError when the broker says that a lock is gone, and the loss is told if it is that of the session;
        TransientError otherwise, and what `end` was told if the session went meanwhile. `secret`: a lock token, which
        the broker may repeat, and we do not.
        """
        carrier = self._link.carrier
        try:
            with anyio.move_on_after(ASK_TIMEOUT_S if timeout_s is None else timeout_s):
                return await carrier.sharing.request(carrier.management(self._link.entity), ask)
        except RemoteError as error:
            told = copy_of(error, text=None if secret is None else without_token(secret, str(error)))
            if not isinstance(told, LeaseLostError):
                self._check_held()
                raise told from None
            if told.reason != LossReason.EXPIRED:
                # Says something about the request. Whether the lock is still ours, the next renewal will tell.
                raise passing(told) from None
            if told.condition not in (MESSAGE_LOCK_LOST, MESSAGE_NOT_FOUND):
                self._on_lock_lost(self._link, str(told))
            raise told from None
        raise TransientError(too_late, kind="timeout")

    @property
    def _messages(self) -> _Traffic:
        """What minds the messages; made for the first, because it weighs more than all else that a session needs."""
        if self._traffic is None:
            link, deliveries = self._link, Deliveries(self._epoch)
            intake = Intake(link, link.carrier.sharing, largest=self._limit)
            self._traffic = _Traffic(deliveries, intake, Settler(self, link, deliveries))
            if self._ended is not None:
                intake.end(self._ended)
        return self._traffic

    def _check_held(self) -> None:
        if self._ended is not None:
            raise self._ended()

    async def _fetch(self, ask: Template, fetch: _Fetch) -> None:
        """Receive deferred messages. Not done by who waits, and may be cancelled when they are locked already."""
        try:
            found = read_messages(await self.ask(ask, "the deferred messages were not sent in time"))
            messages = await self._link.carrier.sharing.read([payload for payload, _ in found])
            self._check_held()
            if any(token is None for _, token in found):
                raise TransientError("a reply with a message that is not locked", kind="garbage")
            fetch.messages = [
                replace(message, handle=self._messages.deliveries.add(None, token, message.sequence_number))
                for message, (_, token) in zip(messages, found, strict=True)
            ]
            fetch.error = None
        except RenewerError as error:
            fetch.error = error
        finally:
            fetch.done.set()


class _Traffic(NamedTuple):
    """What minds the messages of a session: those on their way in, those in flight, and their settlement."""

    deliveries: Deliveries
    intake: Intake
    settler: Settler


class _Fetch:
    """What came of fetching deferred messages."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.messages: list[ReceivedMessage] = []
        self.error: RenewerError | None = TransientError("the connection was closed", kind="network")


def answer_limit(message_size_limit: int) -> int:
    """How many messages of that size fit into one answer of a management node, of which we take `MAX_REPLY_SIZE`."""
    return max(1, min(MAX_COUNT, (MAX_REPLY_SIZE - _REPLY_SLACK) // message_size_limit))


def _token_of(delivery: Delivery) -> UUID | None:
    """The lock token: a delivery-tag has it in .NET's byte order (azure-servicebus 7.15 behaviour)."""
    return UUID(bytes_le=delivery.delivery_tag) if len(delivery.delivery_tag) == _TOKEN_SIZE else None


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_COUNT:
        raise UsageError(f"count: ask for 1 to {MAX_COUNT} messages")


def _too_large(size: int, limit: int | None) -> str:
    if limit is not None and limit < size:
        return f"the state has {size} bytes, and the broker takes {limit}; store it elsewhere, and its place here"
    return (
        f"the broker refuses a state of {size} bytes as too large: it takes as much as one message may have, 256 KB in "
        "the standard tier, 1 MB in the premium tier if no more is set; store it elsewhere, and its place here"
    )
