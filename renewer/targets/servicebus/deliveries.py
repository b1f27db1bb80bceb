"""Messages that were received and not yet settled, by handle, and what is remembered of those whose session went.

A handle names the epoch in which its message was received, so that it is never taken for another one's: ``3.17``. Of an
epoch that is over only those are remembered that were in flight at its end; all others of it have been settled.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from renewer.core.states import LossReason, MessageFate
from renewer.errors import ConflictError, LeaseLostError, MessageSettledError, UnknownHandleError
from renewer.messages import InFlight

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from renewer.amqp import Delivery, DeliveryState
    from renewer.core.model import LeaseId

MAX_LEASES: Final = 10_000
"""So many leases are remembered whose session went with messages in flight."""

MAX_EPOCHS: Final = 4
"""So many epochs of each of them."""

MAX_SETTLED: Final = 1000
"""Of so many messages of a session it is remembered how they were settled, or that the broker took them back."""

_HANDLE: Final = re.compile(r"([1-9][0-9]{0,17}|0)\.([1-9][0-9]{0,17})")
_NAMED: Final = 10


def read_handle(handle: str) -> tuple[int, int]:
    """The epoch and the number in a handle. UnknownHandleError if it is none of ours."""
    match = _HANDLE.fullmatch(handle)
    if match is None:
        raise unknown_handle()
    return int(match[1]), int(match[2])


def settled_already(how: str | None) -> MessageSettledError:
    """The message is settled; None: it is not known any longer how."""
    fate = _FATES.get(how or "")
    if fate is None:
        return MessageSettledError("the message is settled already", fate=MessageFate.ELSEWHERE)
    return MessageSettledError(f"the message is settled already: it was {fate.value}", fate=fate)


def unknown_handle() -> UnknownHandleError:
    """No message of that handle was received."""
    return UnknownHandleError(
        "handle: no message of that handle was received over this lease; give one that a receive gave"
    )


class Unsettled:
    """A message that was received and is not settled.

    `delivery` is None where it cannot be settled over the link, `token` where that is the only way. `is_asked` as long
    as the broker may have settled it because it was asked to. `said` is what was said over the link, to settle it as
    `said_how`, and `answer` what the broker answered there, once it is `answered`. `asked_as` are all the ways in which
    it was asked to be settled and nobody knows what came of that.
    """

    __slots__ = (
        "answer",
        "answered",
        "asked_as",
        "delivery",
        "is_asked",
        "is_busy",
        "number",
        "said",
        "said_how",
        "sequence_number",
        "token",
    )

    def __init__(self, number: int, delivery: Delivery | None, token: UUID | None, sequence_number: int | None) -> None:
        self.number = number
        self.delivery = delivery
        self.token = token
        self.sequence_number = sequence_number
        self.is_asked = False
        self.asked_as: set[str] = set()
        self.is_busy = False
        self.said: DeliveryState | None = None
        self.said_how = ""
        self.answered = anyio.Event()
        self.answer: DeliveryState | None = None


class Deliveries:
    """The messages received in one epoch of a lease."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._last = 0
        self._open: dict[int, Unsettled] = {}
        self._by_delivery: dict[Delivery, Unsettled] = {}
        self._settled: OrderedDict[int, str] = OrderedDict()
        self._unheard: set[int] = set()
        self._taken_back: OrderedDict[int, int | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, delivery: Delivery | None, token: UUID | None, sequence_number: int | None) -> str:
        """Take in a message; its handle. One that came settled over its link has nothing left to settle."""
        self._last += 1
        if delivery is None or not delivery.settled:
            message = self._open[self._last] = Unsettled(self._last, delivery, token, sequence_number)
            if delivery is not None:
                self._by_delivery[delivery] = message
        return f"{self.epoch}.{self._last}"

    def find(self, number: int, how: str) -> Unsettled | None:
        """The message that is to be settled so; None if that was done meanwhile.

        MessageSettledError if it is settled already, LeaseLostError if the broker took it back, ConflictError if it is
        being settled, UnknownHandleError if there is none.
        """
        message = self._open.get(number)
        if message is not None:
            if message.is_busy:
                raise ConflictError("the message is being settled just now")
            return message
        settled = self._settled.get(number)
        if number in self._unheard:
            self._unheard.discard(number)
            if settled == how:
                return None
        if number in self._taken_back:
            raise LeaseLostError(
                "the broker took the message back: it will be delivered again", reason=LossReason.DETACHED
            )
        if 0 < number <= self._last:
            raise settled_already(settled)
        raise unknown_handle()

    def is_open(self, message: Unsettled) -> bool:
        """Whether it is still to be settled."""
        return message.number in self._open

    def close(self, message: Unsettled, how: str, *, is_heard: bool = True) -> None:
        """It is settled. If nobody has heard of that, whoever asks for the same once more is to be told."""
        self._drop(message)
        self._settled[message.number] = how
        if not is_heard:
            self._unheard.add(message.number)
        if len(self._settled) > MAX_SETTLED:
            self._unheard.discard(self._settled.popitem(last=False)[0])

    def leave_link(self, message: Unsettled) -> None:
        """Nothing more is to be done about it over the link."""
        if message.delivery is not None:
            self._by_delivery.pop(message.delivery, None)
            message.delivery = None

    def take_back(self, message: Unsettled) -> None:
        """The broker has it again."""
        self._drop(message)
        self._taken_back[message.number] = message.sequence_number
        if len(self._taken_back) > MAX_SETTLED:
            self._taken_back.popitem(last=False)

    def by_delivery(self, delivery: Delivery) -> Unsettled | None:
        """The message that came so, if it is not settled."""
        return self._by_delivery.get(delivery)

    def in_flight(self) -> list[InFlight]:
        """What is not settled, and what the broker took back."""
        return [
            *(InFlight(f"{self.epoch}.{m.number}", m.sequence_number) for m in self._open.values()),
            *(InFlight(f"{self.epoch}.{n}", sequence, is_lost=True) for n, sequence in self._taken_back.items()),
        ]

    def end(self) -> Past:
        """The session went: all that is not settled is lost. Nobody waits for an answer any longer."""
        past = Past(
            self.epoch,
            self._last,
            {m.number: m.sequence_number for m in self._open.values()},
            frozenset(m.number for m in self._open.values() if m.is_asked),
            dict(self._taken_back),
        )
        for message in self._open.values():
            message.answered.set()
        self._open.clear()
        self._by_delivery.clear()
        return past

    def _drop(self, message: Unsettled) -> None:
        self._open.pop(message.number, None)
        self.leave_link(message)


@dataclass(frozen=True, slots=True)
class Past:
    """An epoch that is over: the number of its last message, and those in flight at its end by sequence number.

    Of the `unsure` ones the broker never said whether it had settled them as asked.
    """

    epoch: int
    last: int
    lost: Mapping[int, int | None]
    unsure: frozenset[int]
    taken_back: Mapping[int, int | None]

    def told(self) -> str:
        """What was lost, for people; empty if nothing was in flight."""
        sure = [sequence for number, sequence in self.lost.items() if number not in self.unsure]
        unsure = [sequence for number, sequence in self.lost.items() if number in self.unsure]
        return _in_flight(sure, "") + _in_flight(unsure, ", if not settled before")

    def in_flight(self) -> list[InFlight]:
        """What was lost."""
        gone = {**self.taken_back, **self.lost}
        return [InFlight(f"{self.epoch}.{number}", sequence, is_lost=True) for number, sequence in gone.items()]


def _in_flight(sequences: Sequence[int | None], unless: str) -> str:
    if not sequences:
        return ""
    one = len(sequences) == 1
    named = [str(sequence) for sequence in sequences if sequence is not None][:_NAMED]
    more = len(sequences) - len(named)
    numbers = ", ".join(named) + (f" and {more} more" if more and named else "")
    words = f"; {len(sequences)} message{'' if one else 's'} in flight will be delivered again{unless}"
    return f"{words} (sequence number{'' if one else 's'} {numbers})" if numbers else words


class PastEpochs:
    """What is remembered of epochs that ended with messages in flight, lease by lease, the oldest forgotten first."""

    def __init__(self) -> None:
        self._leases: OrderedDict[LeaseId, OrderedDict[int, tuple[Past, str | None]]] = OrderedDict()

    def add(self, lease_id: LeaseId, past: Past, reason: str | None) -> None:
        """An epoch ended: lost for this reason, or, with None, because the session was released."""
        if not past.last:
            return
        epochs = self._leases.setdefault(lease_id, OrderedDict())
        epochs[past.epoch] = past, reason
        self._leases.move_to_end(lease_id)
        if len(epochs) > MAX_EPOCHS:
            epochs.popitem(last=False)
        if len(self._leases) > MAX_LEASES:
            self._leases.popitem(last=False)

    def in_flight(self, lease_id: LeaseId) -> list[InFlight]:
        """What went with epochs of this lease."""
        epochs = self._leases.get(lease_id)
        return [] if epochs is None else [lost for past, _ in epochs.values() for lost in past.in_flight()]

    def judge(self, lease_id: LeaseId, epoch: int, number: int) -> Exception:
        """Why a message of an epoch that is over cannot be settled."""
        epochs = self._leases.get(lease_id)
        known = None if epochs is None else epochs.get(epoch)
        if known is None:
            # Of that one nothing is known any longer.
            return LeaseLostError(
                "the session was lost after the message was received: if it was not settled before, it will be "
                "delivered again",
                reason=LossReason.DETACHED,
            )
        past, reason = known
        if number > past.last:
            return unknown_handle()
        if number not in past.lost and number not in past.taken_back:
            return settled_already(None)
        if reason is not None:
            text = "it will be delivered again"
            if number in past.unsure:
                text = "it is not known whether it was settled before; if not, it will be delivered again"
            return LeaseLostError(f"the session was lost with the message in flight: {text}", reason=reason)
        return ConflictError("the session was released with the message in flight: it will be delivered again")


_FATES: Final = {
    "complete": MessageFate.COMPLETED,
    "abandon": MessageFate.ABANDONED,
    "defer": MessageFate.DEFERRED,
    "dead-letter": MessageFate.DEAD_LETTERED,
}
