"""Requests as the routes read them: bounded bodies, strict JSON and idempotency keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from fastapi import Depends, Header, Path
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from renewer.api.control import Control, Idempotency
from renewer.api.problems import Problem

if TYPE_CHECKING:
    from renewer.core.model import LeaseSpec, OperationSpec

MAX_BODY_BYTES = 4 * 1024 * 1024


REPLAYED = {
    "Idempotent-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "There where this is what the same Idempotency-Key made before.",
    }
}
"""The header of `replayed`, for the documentation of a route."""


async def _control_of(request: Request) -> Control:
    control: Control = request.app.state.control
    return control


Daemon = Annotated[Control, Depends(_control_of)]
"""The daemon, for routes to ask."""

IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="Asking twice with one key registers once."),
    Field(min_length=1, max_length=255, pattern="^[ -~]+$"),
]

PathId = Annotated[str, Path(alias="id")]


class ApiRequest(Request):
    """A request whose body is bounded, and whose JSON is an object or a problem."""

    async def body(self) -> bytes:
        """The whole body; a `Problem` if it is longer than `MAX_BODY_BYTES`, as soon as that shows."""
        if not hasattr(self, "_body"):
            whole = bytearray()
            async for chunk in self.stream():
                whole += chunk
                if len(whole) > MAX_BODY_BYTES:
                    raise Problem(413, f"the body may have {MAX_BODY_BYTES} bytes at most")
            self._body = bytes(whole)
        return self._body

    async def json(self) -> Any:
        """The body as a JSON object; a `Problem` if it is none."""
        try:
            document = json.loads(await self.body(), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise Problem(400, f"the body must be a JSON object: {why}") from error
        if not isinstance(document, dict):
            raise Problem(400, "the body must be a JSON object")
        return document


class ApiRoute(APIRoute):
    """A route that reads `ApiRequest`s. Its body, if it takes one, is JSON whatever the caller calls it.

    curl calls what follows -d a form. Where that could be a web page's doing, the request does not come this far.
    """

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The handler, over our own kind of request."""
        handler = super().get_route_handler()
        takes_json = self.body_field is not None

        async def handle(request: Request) -> Response:
            scope = dict(request.scope)
            if takes_json:
                others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
                scope["headers"] = [*others, (b"content-type", b"application/json")]
            response: Response = await handler(ApiRequest(scope, request.receive))
            return response

        return handle


def idempotency(request: Request, key: str | None, body: BaseModel) -> Idempotency | None:
    """The caller's key with a digest of what was asked for, which later versions with more fields find the same."""
    if key is None:
        return None
    document = body.model_dump(mode="json", exclude_unset=True)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    asked = f"{request.method}\n{request.scope['path']}\n{canonical}"
    return Idempotency(key, hashlib.sha256(asked.encode()).hexdigest())


def replayed(spec: LeaseSpec | OperationSpec, key: str | None, *, created: bool) -> dict[str, str]:
    """A header that tells whoever asks again whether what was found is what the same key made before."""
    made_by = spec.context.get("idempotency", {}).get("key")
    return {"Idempotent-Replayed": "true"} if key is not None and not created and made_by == key else {}


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
