"""The admin API's paths for Fabric: scenarios, scripts, and the requests that were seen."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from renewer.emulator.admin import WireModel, problem, read_model
from renewer.emulator.fabric.scenario import (
    BytesResult,
    Ending,
    ErrorDetails,
    JsonResult,
    NoResult,
    PathResult,
    Result,
    Scenario,
)
from renewer.emulator.faults import ScriptError
from renewer.emulator.http import ADMIN_PREFIX

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from renewer.emulator.fabric.exchange import Journal, RequestRecord
    from renewer.emulator.fabric.scripting import Director, Script


class JsonResultBody(WireModel):
    """A JSON document as the result."""

    json_: Any = Field(alias="json")


class BytesResultBody(WireModel):
    """Bytes as the result."""

    base64: str


class NoResultBody(WireModel):
    """No result, and how that is told."""

    none: Literal["no_location", "has_no_result"]


class ErrorBody(WireModel):
    """The error of a failed operation."""

    code: str = Field(default=ErrorDetails().code, max_length=200)
    message: str = Field(default=ErrorDetails().message, max_length=10_000)
    more_details: list[tuple[str, str]] = Field(default_factory=list, max_length=100)
    resource_id: str | None = Field(default=None, max_length=200)
    resource_type: str = Field(default=ErrorDetails().resource_type, max_length=200)
    is_retriable: bool = False


class ScenarioBody(WireModel):
    """A scenario as JSON; the fields mean what they mean in `Scenario`."""

    first_status: Literal[200, 201, 202] = 202
    submit_throttles: int = 0
    poll_throttles: int = 0
    throttle_s: int = 1
    running_polls: int | None = None
    running_s: float = 2.0
    running_statuses: list[str] = Field(default_factory=list)
    ending: Ending = Ending.SUCCEEDED
    result: Literal["path"] | JsonResultBody | BytesResultBody | NoResultBody = "path"
    error: ErrorBody | None = None
    retry_after: int | str | None = 1
    retry_after_as_date: bool = False
    location: str | None = "self"

    def scenario(self, name: str) -> Scenario:
        """Return the scenario that this describes. Raises `ScriptError`."""
        fields = self.model_dump(exclude={"running_statuses", "result", "error"})
        error = ErrorDetails() if self.error is None else _error(self.error)
        statuses = tuple(self.running_statuses)
        return Scenario(name=name, running_statuses=statuses, result=_result(self), error=error, **fields)


class ScriptBody(WireModel):
    """A script as JSON: which requests meet which scenario."""

    scenario: str = Field(max_length=64)
    path: str = Field(default="*", max_length=500)
    display_name: str | None = Field(default=None, max_length=500)
    times: int | None = 1


def control_routes(director: Director, journal: Journal) -> list[BaseRoute]:
    """Return the routes, to be added to the admin API."""

    async def list_scenarios(request: Request) -> Response:
        known = director.scenarios().values()
        return JSONResponse({"scenarios": [_scenario_document(scenario) for scenario in known]})

    async def define_scenario(request: Request) -> Response:
        body = await read_model(request, ScenarioBody)
        scenario = body.scenario(request.path_params["name"])
        director.define(scenario)
        return JSONResponse(_scenario_document(scenario))

    async def remove_scenario(request: Request) -> Response:
        if not director.undefine(request.path_params["name"]):
            return problem(404, "No such scenario", "Only scenarios that were defined here can be removed")
        return Response(status_code=204)

    async def list_scripts(request: Request) -> Response:
        return JSONResponse({"scripts": [_script_document(script) for script in director.scripts()]})

    async def add_script(request: Request) -> Response:
        body = await read_model(request, ScriptBody)
        script_id = director.script(body.scenario, path=body.path, display_name=body.display_name, times=body.times)
        return JSONResponse({"id": script_id}, 201)

    async def clear_scripts(request: Request) -> Response:
        director.clear()
        return Response(status_code=204)

    async def remove_script(request: Request) -> Response:
        if not director.remove(request.path_params["script_id"]):
            return problem(404, "No such script", "GET /_emulator/scripts lists those that there are")
        return Response(status_code=204)

    async def list_requests(request: Request) -> Response:
        return JSONResponse({"requests": [_request_document(record) for record in journal.requests]})

    return [
        Route(f"{ADMIN_PREFIX}/scenarios", list_scenarios, methods=["GET"]),
        Route(f"{ADMIN_PREFIX}/scenarios/{{name}}", define_scenario, methods=["PUT"]),
        Route(f"{ADMIN_PREFIX}/scenarios/{{name}}", remove_scenario, methods=["DELETE"]),
        Route(f"{ADMIN_PREFIX}/scripts", list_scripts, methods=["GET"]),
        Route(f"{ADMIN_PREFIX}/scripts", add_script, methods=["POST"]),
        Route(f"{ADMIN_PREFIX}/scripts", clear_scripts, methods=["DELETE"]),
        Route(f"{ADMIN_PREFIX}/scripts/{{script_id}}", remove_script, methods=["DELETE"]),
        Route(f"{ADMIN_PREFIX}/requests", list_requests, methods=["GET"]),
    ]


def _result(body: ScenarioBody) -> Result:
    match body.result:
        case "path":
            return PathResult()
        case JsonResultBody(json_=document):
            return JsonResult(document)
        case NoResultBody(none=told_by):
            return NoResult(told_by)
        case BytesResultBody(base64=text):
            try:
                return BytesResult(b64decode(text, validate=True))
            except (binascii.Error, ValueError):
                raise ScriptError("result.base64", "must be base64") from None


def _error(body: ErrorBody) -> ErrorDetails:
    return ErrorDetails(
        code=body.code,
        message=body.message,
        more_details=tuple(body.more_details),
        resource_id=body.resource_id,
        resource_type=body.resource_type,
        is_retriable=body.is_retriable,
    )


def _scenario_document(scenario: Scenario) -> dict[str, object]:
    return {
        "name": scenario.name,
        "first_status": scenario.first_status,
        "submit_throttles": scenario.submit_throttles,
        "poll_throttles": scenario.poll_throttles,
        "throttle_s": scenario.throttle_s,
        "running_polls": scenario.running_polls,
        "running_s": scenario.running_s,
        "running_statuses": list(scenario.running_statuses),
        "ending": scenario.ending.value,
        "result": type(scenario.result).__name__,
        "retry_after": scenario.retry_after,
        "retry_after_as_date": scenario.retry_after_as_date,
        "location": scenario.location,
    }


def _script_document(script: Script) -> dict[str, object]:
    return {
        "id": script.id,
        "scenario": script.scenario.name,
        "path": script.path,
        "display_name": script.display_name,
        "times": script.times,
        "used": script.used,
    }


def _request_document(record: RequestRecord) -> dict[str, object]:
    return {
        "at": record.at.isoformat(),
        "method": record.method,
        "path": record.path,
        "point": record.point,
        "token_present": record.token_present,
        "status": record.status,
        "fault": record.fault,
        "early_s": round(record.early_s, 3),
    }
