"""The route of all events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query
from pydantic import Field
from starlette.responses import Response

from renewer.api.control import PASSING_EVENTS, Control, EventDocument
from renewer.api.models import EventFilter
from renewer.api.problems import Problem, problems
from renewer.api.requests import ApiRoute, Daemon
from renewer.api.streams import GAP, EventStream, frame
from renewer.api.views import show_event
from renewer.core.effects import LeaseNews, OperationNews
from renewer.core.states import OperationState

"""What happens all the time: told only to those who name it, and not kept for replay."""

TYPES = frozenset(
    {
        *(f"lease.{news.value}" for news in LeaseNews),
        *(f"operation.{news.value}" for news in OperationNews if news is not OperationNews.STATE_CHANGED),
        *(f"operation.{state.value}" for state in OperationState if state is not OperationState.ACCEPTED),
    }
)
"""Every type of event that there is."""

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="Go on after this event, as far as it is still kept."),
    Field(pattern="^[0-9]{1,18}-[0-9]{1,18}$"),
]

router = APIRouter(route_class=ApiRoute, tags=["events"])


@router.get(
    "/v1/events",
    status_code=200,
    response_class=EventStream,
    responses={
        200: {
            "description": "`id: G-N`, `event: TYPE`, `data:` with an Event. `stream.gap` where some are missing.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **problems(),
    },
)
async def stream_events(
    control: Daemon, wanted: Annotated[EventFilter, Query()], last_event_id: LastEventId = None
) -> Response:
    """Stream what happens to leases and operations.

    `lease.renewed`, `lease.renew_failed`, `lease.acquire_failed`, `operation.polled` and `operation.poll_failed` are
    many, and told only where `type` names them in full.
    """
    # A browser that comes back asks for the URL that it had, and tells in the header how far it has come.
    after = last_event_id if last_event_id is not None else wanted.after
    return EventStream(partial(_frames, control, after, _choice(wanted.type), wanted.subject or None))


@asynccontextmanager
async def _frames(
    control: Control, after: str | None, choice: Callable[[str, str], bool] | None, subjects: list[str] | None
) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    async with control.events(after=after, wanted=choice, subjects=subjects) as events:
        yield _as_frames(events)


async def _as_frames(events: AsyncIterator[EventDocument]) -> AsyncGenerator[bytes, None]:
    async for event in events:
        yield frame(event.type, show_event(event), id_=event.id)


def _choice(wanted: list[str]) -> Callable[[str, str], bool] | None:
    """Which types of event are wanted; None where all are but the quiet ones."""
    families = {name.partition(".")[0] for name in TYPES}
    for name in wanted:
        if name not in TYPES and name not in families:
            raise Problem(400, f"type: there is no {name!r}; one of {', '.join(sorted(families | TYPES))}")
    if not wanted:
        return None
    types = {
        name for name in TYPES if name in wanted or (name not in PASSING_EVENTS and name.partition(".")[0] in wanted)
    } | {GAP}

    def choose(name: str, _subject: str) -> bool:
        return name in types

    return choose
