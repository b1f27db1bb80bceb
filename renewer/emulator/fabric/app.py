"""The emulated Fabric API: what each path of `/v1` does."""

from __future__ import annotations

import time
from collections import OrderedDict
from datetime import timedelta
from typing import TYPE_CHECKING, assert_never
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route

from renewer.emulator.fabric.control import control_routes
from renewer.emulator.fabric.exchange import Call, Desk, Endpoint, Journal, RequestRecord, home_of, path_of
from renewer.emulator.fabric.items import (
    check_new_definition,
    created_item,
    definition,
    display_name_of,
)
from renewer.emulator.fabric.operations import JobInstance, Operation, Progress, Store, Throttle
from renewer.emulator.fabric.scenario import (
    DEFAULT,
    BytesResult,
    Ending,
    JsonResult,
    NoResult,
    PathResult,
    Scenario,
)
from renewer.emulator.fabric.scripting import SCENARIO_HEADER, Choice, Director, ScriptId
from renewer.emulator.fabric.wire import (
    JSON,
    JSON_UTF8,
    OCTETS,
    RefusalError,
    blocked,
    cluster_headers,
    http_date,
    json_bytes,
    json_response,
)
from renewer.emulator.faults import Faults, ScriptError
from renewer.emulator.http import DateHeader

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.routing import BaseRoute

_MAX_THROTTLED = 10_000


class FabricEmulator:
    """A Fabric that answers as scripted. `app` is the ASGI application; its paths begin with `/v1`.

    `token` is the one bearer token that it lets in (None: anybody). `clock` is monotonic, in seconds; the UTC
    time comes from `faults`. `default` is the scenario of a request that asks for none.
    """

    def __init__(
        self,
        faults: Faults,
        *,
        token: str | None = "local",
        clock: Callable[[], float] = time.monotonic,
        default: Scenario = DEFAULT,
    ) -> None:
        self.director = Director(default)
        self._faults = faults
        self._clock = clock
        self._journal = Journal()
        self._operations: Store[Operation] = Store()
        self._jobs: Store[JobInstance] = Store()
        self._throttles: OrderedDict[tuple[str, ...], Throttle] = OrderedDict()
        self._desk = Desk(faults, self._journal, token, clock, self._progress_of)
        self.app = Starlette(
            routes=self._routes(),
            middleware=[Middleware(DateHeader, utc_now=faults.utc_now)],
            exception_handlers={HTTPException: _no_such_route, Exception: _our_fault},
        )
        self.app.router.redirect_slashes = False

    @property
    def requests(self) -> list[RequestRecord]:
        """The latest requests, oldest first."""
        return list(self._journal.requests)

    @property
    def early_polls(self) -> list[RequestRecord]:
        """The latest polls that came before the Retry-After that they had been told."""
        return list(self._journal.early)

    async def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests have been seen in all."""
        while self._journal.total < count:
            await self._journal.changed.wait()

    def script(
        self,
        scenario: Scenario | str,
        *,
        path: str = "*",
        display_name: str | None = None,
        times: int | None = 1,
    ) -> ScriptId:
        """Let the next `times` first requests (None: all) that match both patterns meet a scenario."""
        return self.director.script(scenario, path=path, display_name=display_name, times=times)

    def state(self) -> dict[str, object]:
        """Return counters for the admin API."""
        journal, now_s = self._journal, self._clock()
        return {
            "requests": journal.total,
            "unauthorized": journal.unauthorized,
            "operations": {"kept": len(self._operations), "ended": self._operations.count_ended(now_s)},
            "job_instances": {"kept": len(self._jobs), "ended": self._jobs.count_ended(now_s)},
            "early_polls": {
                "count": journal.early_total,
                "earliest_s": round(journal.earliest_s, 3),
                "latest": [
                    {"at": early.at.isoformat(), "path": early.path, "early_s": round(early.early_s, 3)}
                    for early in journal.early
                ],
            },
        }

    def admin_routes(self) -> list[BaseRoute]:
        """Return the routes by which the admin API scripts this half."""
        return control_routes(self.director, self._journal)

    def _routes(self) -> list[BaseRoute]:
        workspace = "/v1/workspaces/{workspace_id}"
        item = workspace + "/{collection}/{item_id}"
        job = workspace + "/items/{item_id}/jobs/instances/{job_id}"
        return [
            self._route("GET", "/v1/operations/{operation_id}", "fabric.poll", self._poll),
            self._route("GET", "/v1/operations/{operation_id}/result", "fabric.result", self._result),
            self._route("POST", workspace + "/deprovisionIdentity", "fabric.submit", self._without_result),
            self._route("POST", workspace + "/assignToCapacity", "fabric.submit", self._assign_to_capacity),
            self._route("POST", workspace + "/unassignFromCapacity", "fabric.submit", self._unassign),
            self._route("POST", workspace + "/{collection}", "fabric.submit", self._create_item),
            self._route("POST", item + "/getDefinition", "fabric.submit", self._get_definition),
            self._route("POST", item + "/updateDefinition", "fabric.submit", self._update_definition),
            self._route("POST", item + "/jobs/instances", "fabric.submit", self._start_job),
            self._route("POST", item + "/jobs/{job_type}/instances", "fabric.submit", self._start_job),
            self._route("GET", job, "fabric.poll", self._poll_job),
            self._route("POST", job + "/cancel", "fabric.cancel", self._cancel_job),
        ]

    def _route(self, method: str, path: str, point: str, handler: Callable[[Call], Response]) -> Route:
        return Route(path, Endpoint(self._desk, point, handler), methods=[method])

    def _progress_of(self, request: Request) -> Progress | None:
        operation = self._operations.get(request.path_params.get("operation_id", ""))
        if operation is not None:
            return operation.progress if not path_of(request).endswith("/result") else None
        job = self._jobs.get(request.path_params.get("job_id", ""))
        return job.progress if job is not None and request.method == "GET" else None

    # First requests

    def _create_item(self, call: Call) -> Response:
        item = created_item(call.parameter("workspace_id"), call.parameter("collection"), call.document)
        return self._submit(call, JsonResult(item))

    def _get_definition(self, call: Call) -> Response:
        return self._submit(call, JsonResult(definition(call.parameter("item_id"))))

    def _update_definition(self, call: Call) -> Response:
        check_new_definition(call.document)
        return self._submit(call, NoResult("no_location"))

    def _without_result(self, call: Call) -> Response:
        return self._submit(call, NoResult("no_location"))

    def _assign_to_capacity(self, call: Call) -> Response:
        if not isinstance(call.document.get("capacityId"), str):
            details = [("InvalidInput", "capacityId must be a string")]
            raise RefusalError(400, "InvalidInput", "The request has an invalid input", more_details=details)
        return self._unassign(call)

    def _unassign(self, call: Call) -> Response:
        # Recorded: nothing to poll, not even a name for it.
        return Response(b"", 202, cluster_headers(call.home), media_type=OCTETS)

    def _submit(self, call: Call, own: JsonResult | NoResult) -> Response:
        scenario = self._hear(call)
        result = own if isinstance(scenario.result, PathResult) else scenario.result
        if scenario.first_status != 202:
            content, media_type = _content(result)
            return Response(content, scenario.first_status, cluster_headers(call.home), media_type=media_type)
        progress = Progress(scenario, call.utc_now, call.now_s)
        operation = Operation(str(uuid4()), progress, result, call.parameter("workspace_id"))
        self._operations.add(operation)
        call.progress = progress
        base = _base(call, scenario)
        headers = {
            **cluster_headers(base or call.home),
            **self._pace(call, progress, scenario.retry_after),
            "x-ms-operation-id": operation.id,
        }
        if base is not None:
            headers["Location"] = f"{base}/v1/operations/{operation.id}"
        return json_response(202, None, headers)

    def _start_job(self, call: Call) -> Response:
        job_type = call.parameter("job_type") or call.request.query_params.get("jobType", "")
        if not 0 < len(job_type) <= 100:
            raise RefusalError(400, "InvalidParameter", "jobType must be given, in at most 100 characters")
        scenario = self._hear(call)
        progress = Progress(scenario, call.utc_now, call.now_s)
        workspace_id, item_id = call.parameter("workspace_id"), call.parameter("item_id")
        job = JobInstance(str(uuid4()), progress, workspace_id, item_id, job_type, call.request_id)
        if isinstance(scenario.retry_after, int):
            job.next_mark_s = call.now_s + scenario.retry_after
        self._jobs.add(job)
        call.progress = progress
        return self._accepted_job(call, job)

    def _accepted_job(self, call: Call, job: JobInstance) -> Response:
        """Return the 202 of a start or a cancel: as recorded, an empty body, and no operation id."""
        scenario = job.progress.scenario
        headers = {
            **cluster_headers(call.home),
            **self._pace(call, job.progress, scenario.retry_after),
        }
        base = _base(call, scenario)
        if base is not None:
            path = f"/v1/workspaces/{job.workspace_id}/items/{job.item_id}/jobs/instances/{job.id}"
            headers["Location"] = base + path
        return Response(b"", 202, headers, media_type=OCTETS)

    def _hear(self, call: Call) -> Scenario:
        """Return the scenario of a first request, once it has been put off as often as that scenario wants."""
        display_name = display_name_of(call.document)
        try:
            choice = self.director.choose(call.path, display_name, call.request.headers.get(SCENARIO_HEADER))
        except ScriptError as error:
            raise RefusalError(400, "InvalidParameter", f"{SCENARIO_HEADER}: {error.remedy}") from error
        self._put_off(call, choice, display_name or "")
        self.director.use(choice)
        return choice.scenario

    def _put_off(self, call: Call, choice: Choice, display_name: str) -> None:
        scenario = choice.scenario
        if scenario.submit_throttles == 0:
            return
        key = (scenario.name, call.path, display_name)
        throttle = self._throttles.setdefault(key, Throttle(scenario.submit_throttles, scenario.throttle_s))
        call.early_s = max(0.0, throttle.until_s - call.now_s) if throttle.until_s is not None else 0.0
        wait_s = throttle.wait_s(call.now_s)
        if wait_s is None:
            del self._throttles[key]
            return
        if len(self._throttles) > _MAX_THROTTLED:
            self._throttles.popitem(last=False)
        raise blocked(wait_s, call.utc_now)

    # Polls and results

    def _poll(self, call: Call) -> Response:
        operation = self._operation(call)
        progress = self._count_poll(call, operation.progress)
        scenario = progress.scenario
        ended = progress.look(call.now_s)
        if ended and scenario.ending is Ending.STATUS_LESS:
            content, media_type = _content(operation.result)
            return Response(content or b"{}", 200, media_type=media_type or JSON_UTF8)
        headers: dict[str, str] = {}
        base = _base(call, scenario)
        has_result = not isinstance(operation.result, NoResult) or operation.result.told_by == "has_no_result"
        if not ended:
            headers |= self._pace(call, progress, scenario.retry_after)
            headers["x-ms-operation-id"] = operation.id
            if base is not None:
                headers["Location"] = f"{base}/v1/operations/{operation.id}"
        elif scenario.ending is not Ending.FAILED and has_result:
            headers["x-ms-operation-id"] = operation.id
            if base is not None:
                headers["Location"] = f"{base}/v1/operations/{operation.id}/result"
        return json_response(200, operation.state(call.now_s, call.request_id), headers)

    def _result(self, call: Call) -> Response:
        operation = self._operation(call)
        progress = operation.progress
        failed = progress.scenario.ending in (Ending.FAILED, Ending.CANCELLED)
        if not progress.look(call.now_s) or failed:
            raise RefusalError(400, "OperationNotSucceeded", "The operation did not succeed, or not yet")
        if isinstance(operation.result, NoResult):
            raise RefusalError(400, "OperationHasNoResult", "The operation has no result")
        content, media_type = _content(operation.result)
        return Response(content, 200, media_type=JSON if media_type == JSON_UTF8 else media_type)

    def _poll_job(self, call: Call) -> Response:
        job = self._job(call)
        progress = self._count_poll(call, job.progress)
        headers = cluster_headers(call.home)
        if not progress.look(call.now_s):
            if isinstance(progress.scenario.retry_after, int):
                headers |= self._pace(call, progress, job.retry_after_s(call.now_s))
            else:
                headers |= self._pace(call, progress, progress.scenario.retry_after)
        return json_response(200, job.state(call.now_s, call.request_id), headers)

    def _cancel_job(self, call: Call) -> Response:
        job = self._job(call)
        if job.progress.look(call.now_s):
            raise RefusalError(400, "JobAlreadyCompleted", "The job instance has already ended")
        job.progress.cancelled = True
        call.progress = job.progress
        return self._accepted_job(call, job)

    def _operation(self, call: Call) -> Operation:
        operation = self._operations.get(call.parameter("operation_id"))
        if operation is None:
            raise RefusalError(404, "OperationNotFound", "The operation was not found")
        return operation

    def _job(self, call: Call) -> JobInstance:
        job = self._jobs.get(call.parameter("job_id"))
        of_this_path = job is not None and (job.workspace_id, job.item_id) == (
            call.parameter("workspace_id"),
            call.parameter("item_id"),
        )
        if job is None or not of_this_path:
            raise RefusalError(404, "EntityNotFound", "The requested resource could not be found")
        return job

    def _count_poll(self, call: Call, progress: Progress) -> Progress:
        wait_s = progress.throttle.wait_s(call.now_s)
        if wait_s is not None:
            raise blocked(wait_s, call.utc_now)
        progress.poll(call.now_s, call.utc_now)
        return progress

    def _pace(self, call: Call, progress: Progress, retry_after: int | str | None) -> dict[str, str]:
        """Return the Retry-After header, in the form that the scenario wants."""
        if retry_after is None:
            return {}
        if progress.scenario.retry_after_as_date and isinstance(retry_after, int):
            return {"Retry-After": http_date(call.utc_now + timedelta(seconds=retry_after))}
        return {"Retry-After": str(retry_after)}


def _base(call: Call, scenario: Scenario) -> str | None:
    """Return scheme and host for Location; None when there is to be no Location."""
    match scenario.location:
        case None:
            return None
        case "self":
            return call.home
        case host:
            return f"https://{host}"


def _content(result: JsonResult | BytesResult | NoResult) -> tuple[bytes, str | None]:
    match result:
        case JsonResult(document):
            return json_bytes(document), JSON_UTF8
        case BytesResult(content):
            return content, OCTETS
        case NoResult():
            return b"", None
        case _ as never:
            assert_never(never)


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    code = "EndpointNotFound" if status == 404 else "BadRequest"
    refusal = RefusalError(status, code, "The requested endpoint was not found, or not with this method")
    return refusal.response(str(uuid4()), home_of(request))


async def _our_fault(request: Request, error: Exception) -> Response:
    refusal = RefusalError(500, "InternalServerError", f"The emulator failed: {type(error).__name__}")
    return refusal.response(str(uuid4()), home_of(request))
