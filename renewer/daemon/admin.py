"""The admin listener: `/metrics` for Prometheus, `/livez` and `/readyz` for whoever starts and stops the daemon.

And, for people, the page at `/`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import prometheus_client
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from renewer.daemon.page import say_there_is_no_page

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from renewer.daemon.page import Page
    from renewer.observe import Metrics


def build_admin(metrics: Metrics, *, not_ready: Callable[[], str | None], page: Page | None = None) -> ASGIApp:
    """The admin pages. `not_ready` says why the daemon takes no work, or None when it does."""

    async def show_metrics(_request: Request) -> Response:
        return Response(metrics.exposition(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def livez(_request: Request) -> Response:
        # That this is answered at all is the proof: it comes from the loop that renews.
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        why = not_ready()
        return PlainTextResponse("ok\n") if why is None else PlainTextResponse(f"{why}\n", 503)

    return Starlette(
        routes=[
            Route("/metrics", show_metrics, methods=["GET"]),
            Route("/livez", livez, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
            *([Route("/", say_there_is_no_page, methods=["GET"])] if page is None else page.routes()),
        ]
    )
