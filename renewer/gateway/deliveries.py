"""Messages under peek-lock on one AMQP session of a worker's: noted as they pass, and followed until they are settled.

Frames are read where they lie, `at` to `end`. The only thing that is changed is the end of a lock, in place.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from renewer.amqp.serial import serial_distance
from renewer.core.states import MessageFate
from renewer.gateway.dispositions import ACCEPTED, OUTCOMES, REJECTED, outcome_of, read_disposition, rejected_error
from renewer.gateway.links import Locked
from renewer.gateway.transfers import find_sequence_number, read_delivery, read_transfer, usual_lock

if TYPE_CHECKING:
    from renewer.gateway.links import WorkerLink
    from renewer.gateway.transfers import UsualLock
    from renewer.gateway.watching import Exchanges

MOST_LOCKED: Final = 10_000
"""So many messages of one link are looked after at once; whoever takes more of them without settling any is not."""


class Deliveries:
    """`followed` are the links whose messages are to be known until they are settled."""

    __slots__ = ("_wire", "followed")

    def __init__(self, wire: Exchanges) -> None:
        self._wire = wire
        self.followed: list[WorkerLink] = []

    def shown(self, link: WorkerLink, buffer: bytearray, at: int, end: int) -> UsualLock | None:
        """Have the worker see of a message what it is to see of its lock; what is true of it, for `noted`.

        None, and nothing done, for a message that is for `locked`.
        """
        if link.is_within or len(link.locked) >= MOST_LOCKED:
            return None
        lock = usual_lock(buffer, at, end)
        if lock is not None and link.shown_for_s is not None:
            wire = self._wire
            _MILLISECONDS.pack_into(buffer, lock[0], int(1000 * (wire.now + wire.wall_ahead_s + link.shown_for_s)))
        return lock

    def noted(self, link: WorkerLink, buffer: bytearray, at: int, end: int, lock: UsualLock) -> None:
        """Such a message was passed on."""
        _, until, number = lock
        _, delivery_id, tag, settled, link.is_within, aborted, payload = read_transfer(buffer, at, end)
        link.within_id = None
        if settled or aborted or delivery_id is None or tag is None or link.is_session:
            return
        if number is None:
            number = find_sequence_number(buffer, payload, end)
        link.locked[delivery_id] = Locked(delivery_id, tag, until / 1000, self._wire.now, number)
        link.within_id = delivery_id

    def locked(self, link: WorkerLink, buffer: bytearray, at: int, end: int) -> None:
        """Part of a message comes over a link that is watched: what its lock is, and what the worker is shown of it."""
        was_within = link.is_within
        delivery_id, tag, settled, link.is_within, aborted, offset, number = read_delivery(buffer, at, end)
        if was_within:
            if aborted:
                self._aborted(link)
            return
        link.within_id = None
        if settled or aborted or delivery_id is None:
            return
        if not link.is_session:
            locked = link.locked
            if len(locked) >= MOST_LOCKED or tag is None or len(tag) != _GUID_SIZE:
                return
            until = None if offset < 0 else _MILLISECONDS.unpack_from(buffer, offset)[0] / 1000
            locked[delivery_id] = Locked(delivery_id, tag, until, self._wire.now, number)
            link.within_id = delivery_id
        if offset >= 0 and link.shown_for_s is not None:
            _MILLISECONDS.pack_into(buffer, offset, int(1000 * (self._wire.wall_now + link.shown_for_s)))

    def worker_settles(self, buffer: bytes | bytearray, at: int, end: int) -> None:
        """A disposition of the worker's. AmqpProtocolError if it is none."""
        if not self.followed:
            return
        role, first, last, settled, state, span = read_disposition(buffer, at, end)
        if not role or (not settled and state not in OUTCOMES):
            return
        fate: MessageFate | None = MessageFate.COMPLETED
        if state != ACCEPTED:
            fate = None if span is None else outcome_of(buffer, span)
        for link, locked in self._named(first, last):
            if settled:
                del link.locked[locked.delivery_id]
                if locked.kept is not None:
                    self._wire.ledger.settled(link, locked, fate, None)
            else:
                locked.fate = fate
                if not locked.is_settling:
                    locked.is_settling = True
                    if locked.kept is not None:
                        self._wire.ledger.settling(link, locked)

    def broker_settles(self, buffer: bytes | bytearray, at: int, end: int) -> None:
        """A disposition of the broker's. AmqpProtocolError if it is none."""
        if not self.followed:
            return
        role, first, last, settled, state, span = read_disposition(buffer, at, end)
        if role or not settled:
            return
        error = rejected_error(buffer, span) if state == REJECTED and span is not None else None
        for link, locked in self._named(first, last):
            del link.locked[locked.delivery_id]
            if locked.kept is not None:
                fate = locked.fate if error is None else None
                self._wire.ledger.settled(link, locked, fate, error)

    def _aborted(self, link: WorkerLink) -> None:
        """The broker takes back what it has begun to send."""
        locked = None if link.within_id is None else link.locked.pop(link.within_id, None)
        if locked is not None and locked.kept is not None:
            self._wire.ledger.settled(link, locked, None, None)

    def _named(self, first: int, last: int) -> list[tuple[WorkerLink, Locked]]:
        """The messages that a disposition is about, however large the range that it names."""
        if first == last:
            return [(link, link.locked[first]) for link in self.followed if first in link.locked]
        count = serial_distance(first, last) + 1
        return [
            (link, locked)
            for link in self.followed
            for number, locked in link.locked.items()
            if 0 <= serial_distance(first, number) < count
        ]


_GUID_SIZE: Final = 16
_MILLISECONDS: Final = Struct(">q")
