"""The plan of an event stream: open it, read it, open it again where it left off.

Beside the steps of `renewer.client.plans` it yields those of a stream.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from renewer.client import daemoncalls, leasecalls
from renewer.client.errors import ProtocolError, RenewerApiError, Unavailable
from renewer.client.models import Event, event_of
from renewer.client.options import Names, kept, limit_s
from renewer.client.plans import Pause, Plan, Terms, backoff_s
from renewer.client.quantities import Duration
from renewer.client.sse import EventParser, ServerSent
from renewer.client.wire import STREAM_TYPE, Answer, Request, Unanswered, error_of

SILENCE_S: Final = 25.0
"""A stream that says nothing for this long is broken: a keep-alive comes every ten seconds."""

OVER: Final = frozenset({"lease.released", "lease.forgotten"})


@dataclass(frozen=True, slots=True)
class Open:
    """Open a stream, in place of any before; what comes of it is an `Answer`, without a body if it is a stream."""

    request: Request


@dataclass(frozen=True, slots=True)
class Receive:
    """Read what the stream says next: bytes, ``b""`` when it has ended, None when nothing came in this time."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Close:
    """Close the stream, if there is one."""


@dataclass(frozen=True, slots=True)
class Emit:
    """Hand this to the reader."""

    event: Event


def all_events(
    types: Names, subjects: Names, terms: Terms, *, after: str | None, reconnect_for: Duration | None
) -> Plan[None]:
    """Emit what happens, from now on or from after the event with the id `after`; see `following`."""
    types, subjects = kept(types), kept(subjects)
    return following(
        lambda last: daemoncalls.events(types, subjects, last),
        terms,
        after=after,
        reconnect_for_s=limit_s("reconnect_for", reconnect_for),
        until=_never,
    )


def lease_events(lease_id: str, terms: Terms, *, reconnect_for: Duration | None) -> Plan[None]:
    """Emit what happens to one lease until it is over; see `following`."""
    return following(
        lambda _last: leasecalls.lease_events(lease_id, owner=False),
        terms,
        after=None,
        reconnect_for_s=limit_s("reconnect_for", reconnect_for),
        until=_is_last,
    )


def following(
    request_after: Callable[[str | None], Request],
    terms: Terms,
    *,
    after: str | None,
    reconnect_for_s: float | None,
    until: Callable[[Event], bool],
) -> Plan[None]:
    """Emit events until one is the last, over as many connections as it takes.

    A daemon that is not there at first is an error soon; one that goes away later is waited for, `reconnect_for_s` at
    most, or for ever.
    """
    attempt, patience_s = 0, terms.retry_for_s
    give_up_at: float | None = terms.clock() + patience_s
    while True:
        failure: RenewerApiError | None = None
        try:
            answer = yield Open(request_after(after))
            check_stream(answer)
        except Unanswered as unanswered:
            failure = unanswered.error(terms.address)
        except Unavailable as error:
            failure = error
        if failure is None:
            give_up_at = None
            parser = EventParser()
            while chunk := (yield Receive(SILENCE_S)):
                for sent in parser.feed(chunk):
                    event = read_event(sent)
                    attempt, after = 0, event.id or after
                    yield Emit(event)
                    if until(event):
                        yield Close()
                        return
            yield Close()
        if give_up_at is None and reconnect_for_s is not None:
            give_up_at = terms.clock() + reconnect_for_s
        delay_s = backoff_s(attempt)
        if give_up_at is not None and terms.clock() + delay_s > give_up_at:
            raise failure or Unavailable(f"the event stream of the daemon at {terms.address} broke off")
        attempt += 1
        yield Pause(delay_s)


def check_stream(answer: Answer) -> None:
    """Raise what `answer` says if it is no event stream."""
    if answer.status != 200:
        raise error_of(answer)
    if not (answer.header("content-type") or "").startswith(STREAM_TYPE):
        raise ProtocolError("what answered is not a renewer of this version: no event stream", status=answer.status)


def read_event(sent: ServerSent) -> Event:
    """The event that was sent. Raises `ProtocolError`."""
    try:
        document = json.loads(sent.data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("what answered is not a renewer: an event is not JSON") from error
    return event_of(document, type=sent.type, id=sent.id)


def _is_last(event: Event) -> bool:
    """Whether a lease's own stream ends with this event."""
    if event.type == "snapshot":
        return event.lease.is_over
    return event.type in OVER or (event.type == "lease.lost" and event.data.get("final") is True)


def _never(_event: Event) -> bool:
    return False
