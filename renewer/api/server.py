"""The control API as an application: for workers, for commands and for people with curl.

Every error is a problem document; every list is paged; `wait=` holds an answer back until there is something to say.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response

import renewer
from renewer.api import events, leasebatches, leases, messages, operations, status
from renewer.api.documents import JsonResponse
from renewer.api.guard import Guard
from renewer.api.problems import HANDLERS, ProblemDocument
from renewer.api.views import EventView

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from renewer.api.control import Control

_ROUTERS = (leases.router, leasebatches.router, messages.router, operations.router, events.router, status.router)

_DESCRIPTION = """Keeps locks and follows long-running operations; see the README.

Durations are numbers of seconds, or texts such as "500ms", "30s", "4m", "1h", "1d". Moments are ISO 8601, in UTC.
Every error is a problem document (RFC 9457) whose `detail` says what to do."""


def build_api(control: Control, *, key: Callable[[], str | None] = lambda: None, over_tcp: bool) -> ASGIApp:
    """The API as an ASGI application. While `key` tells a key, every request must carry it as a bearer token.

    Without one, and `over_tcp`, requests that a web page may have sent are refused.
    """
    app = _application()
    app.state.control = control
    # To make the document takes longer than the loop that renews may be held.
    document = Path(__file__).with_name("openapi.json").read_bytes()

    async def openapi(_request: Request) -> Response:
        return JsonResponse(document)

    app.add_route("/v1/openapi.json", openapi, include_in_schema=False)
    return Guard(app, key, over_tcp=over_tcp)


def openapi_document() -> dict[str, Any]:
    """What the API takes and answers, as an OpenAPI document; kept as ``openapi.json`` and served from there."""
    return _application().openapi()


class _Api(FastAPI):
    """The application; its document tells of no answer that is never given."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            _without_fastapis_own_errors(document)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for name, kind in (("Problem", ProblemDocument), ("Event", EventView)):
                schema = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[name] = {**schema, "title": name}
            document["components"]["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer", "description": "The key of [api], where one is set."}
            }
            document["security"] = [{"key": []}, {}]
            document["components"]["schemas"] = dict(sorted(schemas.items()))
        return super().openapi()


def _application() -> FastAPI:
    app = _Api(
        title="renewer",
        version=renewer.__version__,
        description=_DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=HANDLERS,
        generate_unique_id_function=lambda route: route.name,
    )
    for router in _ROUTERS:
        app.include_router(router)
    app.state.routes = [route for router in _ROUTERS for route in router.routes]
    return app


def _without_fastapis_own_errors(document: dict[str, Any]) -> None:
    """Our mistakes are problem documents; FastAPI documents answers of its own that it never gets to give."""
    for path in document["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            if "HTTPValidationError" in str(responses.get("422")):
                del responses["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
