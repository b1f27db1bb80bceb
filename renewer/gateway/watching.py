"""What a worker does with its locks over `$management`: renewals of its own, settlements, deferred messages.

All of it passes. It is read so that the leases tell the truth, and so that the worker is shown the same end of a lock
everywhere.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from renewer.gateway.asking import Ask, Operation, answer_key, read_answer, read_ask
from renewer.gateway.transfers import read_transfer
from renewer.gateway.whole import gather

if TYPE_CHECKING:
    from collections.abc import Iterator

    from renewer.gateway.asking import Answer
    from renewer.gateway.ledgers import LinkLedger
    from renewer.gateway.links import WorkerLink

MOST_ASKED: Final = 2048
"""So many requests of one connection are remembered; the oldest is forgotten then."""

MOST_NAMED: Final = 20_000
"""So many locks and messages may be named in all the requests that are remembered."""

_MANY: Final = 100
_MILLISECONDS: Final = Struct(">q")


class Asked(NamedTuple):
    """A request that has not been answered."""

    ask: Ask
    sent_at: float


class Exchanges(Protocol):
    """The connection that the requests are made on."""

    now: float
    ledger: LinkLedger
    asked: dict[tuple[str, bytes], Asked]
    """By entity, in lower case, and message-id."""

    wall_ahead_s: float
    """How far the wall clock, in epoch seconds, is ahead of `now`."""

    @property
    def wall_now(self) -> float:
        """The wall clock, in epoch seconds."""
        ...

    def receivers(self, entity: str) -> Iterator[WorkerLink]:
        """The worker's links that receive from this entity."""
        ...


def on_ask(wire: Exchanges, link: WorkerLink, body: bytes) -> None:
    """A transfer from the worker to a management node."""
    payload = gather(link, body)
    ask = None if payload is None else read_ask(payload)
    if ask is None:
        return
    asked = wire.asked
    if len(asked) >= MOST_ASKED:
        del asked[next(iter(asked))]
    if (named := _named(ask)) > _MANY:
        named += sum(_named(known.ask) for known in asked.values())
        while asked and named > MOST_NAMED:
            named -= _named(asked.pop(next(iter(asked))).ask)
    asked[link.entity.lower(), ask.key] = Asked(ask, wire.now)


def on_answer(wire: Exchanges, link: WorkerLink, buffer: bytearray, at: int, end: int) -> None:
    """A transfer from a management node; in one that came in a single frame the ends of locks are replaced."""
    body = bytes(buffer[at:end])
    is_single = not link.is_within
    payload = gather(link, body, skip=not wire.asked)
    key = None if payload is None else answer_key(payload)
    if payload is None or key is None:
        return
    asked = wire.asked.pop((link.entity.lower(), key), None)
    answer = None if asked is None else read_answer(payload, asked.ask)
    if asked is None or answer is None or answer.status is None or not 200 <= answer.status < 300:
        return
    _take(wire, link, asked, answer)
    if is_single and link.policy.show_lock_until == "extended":
        payload_at = at + read_transfer(body)[-1]
        left_s = _left_s(wire, link, asked.ask)
        shown = int(1000 * (wire.wall_now + left_s))
        for offset in _ends_of_locks(link, asked.ask, answer):
            if left_s >= link.policy.shown_for_s or shown > _MILLISECONDS.unpack_from(payload, offset)[0]:
                _MILLISECONDS.pack_into(buffer, payload_at + offset, shown)


def _named(ask: Ask) -> int:
    return len(ask.tokens) + len(ask.sequence_numbers)


def _take(wire: Exchanges, link: WorkerLink, asked: Asked, answer: Answer) -> None:
    """Tell the ledger."""
    ask, ledger = asked.ask, wire.ledger
    match ask.operation:
        case Operation.RENEW_SESSION | Operation.RENEW_MESSAGES:
            ledger.renewed_by_worker(
                link.entity,
                ask.session_id,
                ask.tokens,
                [until for _, until in answer.expirations],
                sent_at=asked.sent_at,
                received_at=wire.now,
            )
        case Operation.SETTLE:
            if ask.disposition is None:
                return
            tags = {token.bytes_le for token in ask.tokens}
            for receiver in wire.receivers(link.entity):
                for number, locked in list(receiver.locked.items()):
                    if locked.tag in tags:
                        del receiver.locked[number]
            ledger.settled_by_token(link.entity, ask.tokens, ask.disposition)
        case Operation.RECEIVE_DEFERRED:
            if ask.session_id is None and link.policy.messages and answer.locked:
                ledger.locked_by_token(link, answer.locked, received_at=wire.now)


def _left_s(wire: Exchanges, link: WorkerLink, ask: Ask) -> float:
    """For how long the locks are still renewed here: after that it is the worker's own renewals that count."""
    policy = link.policy
    if policy.max_duration_s is None:
        return policy.shown_for_s
    seen_at = [wire.now]
    tags = {token.bytes_le for token in ask.tokens}
    for receiver in wire.receivers(link.entity):
        if ask.session_id is not None:
            if receiver.session_id == ask.session_id and not receiver.is_gone:
                seen_at.append(receiver.sent_at)
        else:
            seen_at += [locked.received_at for locked in receiver.locked.values() if locked.tag in tags]
    return min(policy.shown_for_s, max(0.0, min(seen_at) + policy.max_duration_s - wire.now))


def _ends_of_locks(link: WorkerLink, ask: Ask, answer: Answer) -> Iterator[int]:
    of_session = ask.session_id is not None or ask.operation is Operation.RENEW_SESSION
    if not (link.policy.sessions if of_session else link.policy.messages):
        return
    for offset, _ in answer.expirations:
        yield offset
    for message in answer.locked:
        if message.offset >= 0:
            yield message.offset
