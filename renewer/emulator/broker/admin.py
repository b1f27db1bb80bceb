"""Routes by which the admin API disturbs a broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from starlette.responses import JSONResponse
from starlette.routing import Route

from renewer.emulator.admin import WireModel, problem, read_model
from renewer.emulator.faults import check_header_text
from renewer.emulator.http import ADMIN_PREFIX

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from renewer.emulator.broker.server import Broker


class SessionBody(WireModel):
    """A session."""

    entity: str = Field(max_length=300)
    session_id: str = Field(max_length=128)


class DetachBody(SessionBody):
    """A session, and the error that its holder is to see."""

    condition: str = "com.microsoft:session-lock-lost"


def broker_routes(broker: Broker) -> list[BaseRoute]:
    """Take a session away, let its lock run out, cut every connection."""

    async def detach_session(request: Request) -> Response:
        body = await read_model(request, DetachBody)
        check_header_text("condition", body.condition)
        return _done(broker.detach_session(body.entity, body.session_id, condition=body.condition))

    async def expire(request: Request) -> Response:
        body = await read_model(request, SessionBody)
        return _done(broker.expire(body.entity, body.session_id))

    async def reset_connections(request: Request) -> Response:
        return JSONResponse({"connections": broker.reset_connections()})

    prefix = f"{ADMIN_PREFIX}/servicebus"
    return [
        Route(f"{prefix}/detach-session", detach_session, methods=["POST"]),
        Route(f"{prefix}/expire-session", expire, methods=["POST"]),
        Route(f"{prefix}/reset-connections", reset_connections, methods=["POST"]),
    ]


def _done(done: bool) -> Response:
    if not done:
        return problem(404, "No such session", "Nobody holds a session of that id at that entity")
    return JSONResponse({"done": True})
