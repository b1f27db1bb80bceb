"""Routes of the daemon itself."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from starlette.responses import Response

from renewer.api.control import Control
from renewer.api.documents import JsonResponse
from renewer.api.models import NewDrain
from renewer.api.problems import problems
from renewer.api.requests import ApiRoute, Daemon
from renewer.api.views import StatusView, show_status

router = APIRouter(route_class=ApiRoute, default_response_class=JsonResponse, tags=["daemon"])


@router.get("/v1/status", response_model=StatusView, responses=problems())
async def get_status(control: Daemon) -> Response:
    """Show the daemon: how much it keeps, how well, and what is wrong."""
    return _answer(control)


@router.post("/v1/drain", response_model=StatusView, responses=problems(409, 413, 415, 422, 503))
async def drain(control: Daemon, body: Annotated[NewDrain | None, Body()] = None) -> Response:
    """Take no new work, or take it again. While draining, POST of leases and operations answers 429."""
    wish = NewDrain() if body is None else body
    await control.drain(enabled=wish.enabled, park=wish.park)
    return _answer(control)


def _answer(control: Control) -> Response:
    return JsonResponse(show_status(control.status(), control.clock))
