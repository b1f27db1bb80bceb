"""The admin API under `/_emulator`: scripted faults, the clock, and what the emulator has seen.

Errors are problem documents (RFC 9457). It has no authentication: it belongs on a loopback listener.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from renewer.emulator.faults import Fault, FaultAction, FaultState, ScriptError
from renewer.emulator.http import ADMIN_PREFIX, MAX_BODY, BodyTooLargeError, read_body

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.routing import BaseRoute

    from renewer.emulator.faults import Faults

Model = TypeVar("Model", bound=BaseModel)


class WireModel(BaseModel):
    """What the admin API reads: no unknown keys, no guessed types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class FaultBody(WireModel):
    """A fault as JSON; the fields mean what they mean in `Fault`."""

    on: str = Field(max_length=200)
    action: FaultAction
    match: dict[str, str | int | bool] = Field(default_factory=dict, max_length=50)
    times: int | None = None
    every: int = 1
    delay_s: float | None = None
    status: int | None = None
    retry_after: int | str | None = None
    condition: str | None = None
    message: str | None = Field(default=None, max_length=10_000)


class ClockBody(WireModel):
    """How far the server's UTC clock is off, in seconds."""

    offset_s: float


class EmulatorAdmin:
    """The admin API over one registry of faults. Other parts add their routes and their share of the state."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._state_sources: dict[str, Callable[[], Mapping[str, object]]] = {}
        self.app = Starlette(
            routes=[
                Route(f"{ADMIN_PREFIX}/faults", self._list_faults, methods=["GET"]),
                Route(f"{ADMIN_PREFIX}/faults", self._add_fault, methods=["POST"]),
                Route(f"{ADMIN_PREFIX}/faults", self._clear_faults, methods=["DELETE"]),
                Route(f"{ADMIN_PREFIX}/faults/{{fault_id}}", self._remove_fault, methods=["DELETE"]),
                Route(f"{ADMIN_PREFIX}/clock", self._set_clock, methods=["PUT"]),
                Route(f"{ADMIN_PREFIX}/state", self._state, methods=["GET"]),
            ],
            exception_handlers={
                HTTPException: _http_problem,
                ScriptError: _script_problem,
                ValidationError: _validation_problem,
                BodyTooLargeError: _size_problem,
                ClientDisconnect: _client_left,
            },
        )
        self.app.router.redirect_slashes = False

    def add_routes(self, routes: Sequence[BaseRoute]) -> None:
        """Serve further routes, whose paths begin with `/_emulator/`."""
        self.app.router.routes.extend(routes)

    def add_state(self, name: str, source: Callable[[], Mapping[str, object]]) -> None:
        """Show what `source` returns under `name` in `/_emulator/state`; it is called at each request."""
        self._state_sources[name] = source

    async def _list_faults(self, request: Request) -> Response:
        return JSONResponse({"faults": [_fault_document(state) for state in self._faults.list()]})

    async def _add_fault(self, request: Request) -> Response:
        body = await read_model(request, FaultBody)
        fault_id = self._faults.add(Fault(**body.model_dump()))
        return JSONResponse({"id": fault_id}, 201)

    async def _clear_faults(self, request: Request) -> Response:
        self._faults.clear()
        return Response(status_code=204)

    async def _remove_fault(self, request: Request) -> Response:
        if not self._faults.remove(request.path_params["fault_id"]):
            return problem(404, "No such fault", "GET /_emulator/faults lists those that there are")
        return Response(status_code=204)

    async def _set_clock(self, request: Request) -> Response:
        self._faults.clock_offset_s = (await read_model(request, ClockBody)).offset_s
        return JSONResponse(self._clock())

    async def _state(self, request: Request) -> Response:
        return JSONResponse(
            {
                "clock": self._clock(),
                "requests": dict(self._faults.seen),
                "faults": [_fault_document(state) for state in self._faults.list()],
                **{name: source() for name, source in self._state_sources.items()},
            }
        )

    def _clock(self) -> dict[str, object]:
        return {"offset_s": self._faults.clock_offset_s, "utc_now": self._faults.utc_now().isoformat()}


async def read_model(request: Request, model: type[Model]) -> Model:
    """Read a request's JSON body as `model`; the application turns what is wrong with it into a problem."""
    return model.model_validate_json(await read_body(request))


def problem(status: int, title: str, detail: str, errors: Sequence[tuple[str, str]] = ()) -> Response:
    """Return a problem document; `errors` are pairs of a field and what would be right."""
    document: dict[str, object] = {"type": "about:blank", "status": status, "title": title, "detail": detail}
    if errors:
        document["errors"] = [{"field": field, "remedy": remedy} for field, remedy in errors]
    return JSONResponse(document, status, media_type="application/problem+json")


def _bad_input(errors: Sequence[tuple[str, str]]) -> Response:
    detail = "; ".join(f"{field}: {remedy}" for field, remedy in errors)
    return problem(400, "Bad input", detail, errors)


async def _script_problem(request: Request, error: Exception) -> Response:
    return _bad_input([(error.field, error.remedy)]) if isinstance(error, ScriptError) else _bad_input([])


async def _validation_problem(request: Request, error: Exception) -> Response:
    found = error.errors(include_url=False, include_input=False) if isinstance(error, ValidationError) else []
    return _bad_input(
        [(".".join(map(str, mistake["loc"])) or "body", _remedy(mistake["type"], mistake["msg"])) for mistake in found]
    )


async def _size_problem(request: Request, error: Exception) -> Response:
    return problem(413, "Body too large", f"At most {MAX_BODY} bytes are read")


async def _http_problem(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    title = "No such path" if status == 404 else "Not with this method" if status == 405 else "Refused"
    return problem(status, title, f"{request.method} {request.scope['path'][:200]} is not part of the admin API")


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=400)


def _remedy(kind: str, message: str) -> str:
    match kind:
        case "extra_forbidden":
            return "there is no such field; leave it out"
        case "missing":
            return "must be given"
        case _:
            return message


def _fault_document(state: FaultState) -> dict[str, object]:
    fault = state.fault
    return {
        "id": state.id,
        "on": fault.on,
        "action": fault.action.value,
        "match": dict(fault.match),
        "times": fault.times,
        "every": fault.every,
        "delay_s": fault.delay_s,
        "status": fault.status,
        "retry_after": fault.retry_after,
        "condition": fault.condition,
        "message": fault.message,
        "seen": state.seen,
        "fired": state.fired,
    }
