"""A daemon that does as it is told: the control API over a real socket, in a thread, with everything in memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

_T = TypeVar("_T")

LIMIT_S = 20


@dataclass
class Seen:
    """One request that came in."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class StandIn:
    """What the daemon has and how it behaves. Tests change it through `do`, which runs in the server's loop."""

    path: Path
    grants: bool = True
    refuses: int = 0
    refusal: str = "refused"
    keep_alive_s: float = 10.0
    lock_duration_s: float = 30.0
    page: int = 2
    answers: dict[tuple[str, str], Response] = field(default_factory=dict)
    leases: dict[str, dict[str, Any]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    log: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    owners: dict[str, int] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    flying: dict[str, dict[str, Any]] = field(default_factory=dict)
    settled: list[tuple[str, str, Any]] = field(default_factory=list)
    draining: bool = False
    _readers: list[tuple[str | None, asyncio.Queue[tuple[str, dict[str, Any]] | None]]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _loop: asyncio.AbstractEventLoop | None = None
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = None

    @property
    def api(self) -> str:
        return f"unix:{self.path}"

    # --- for tests

    def start(self) -> StandIn:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.path.unlink(missing_ok=True)
        listener.bind(str(self.path))
        listener.listen(64)
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name="standin")
        self._thread.start()
        assert ready.wait(LIMIT_S)
        return self

    def kill(self) -> None:
        """Go away at once, with every connection, and keep what is registered."""

        def abort() -> None:
            assert self._server is not None
            self._server.should_exit = self._server.force_exit = True
            for listener in self._server.servers:
                listener.close()
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()

        assert self._thread is not None
        if self._thread.is_alive():
            self.do(abort)
            self._thread.join(LIMIT_S)
            assert not self._thread.is_alive()
        self.path.unlink(missing_ok=True)

    def do(self, what: Callable[[], _T]) -> _T:
        """Run this in the server's loop."""
        assert self._loop is not None
        outcome: list[_T] = []
        done = threading.Event()

        def run() -> None:
            try:
                outcome.append(what())
            finally:
                done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(LIMIT_S)
        return outcome[0]

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something has happened in the server."""
        with self._changed:
            assert self._changed.wait_for(condition, LIMIT_S)

    def tell(self, lease_id: str, type_: str, **data: Any) -> None:
        """Let an event of a lease happen, with what it means for the lease."""
        self.do(lambda: self._tell(lease_id, type_, data))

    def change(self, lease_id: str, **fields: Any) -> None:
        self.do(lambda: self.leases[lease_id].update(fields))

    def only_lease(self) -> dict[str, Any]:
        (lease,) = self.leases.values()
        return lease

    def requests(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in list(self.seen) if seen.method == method and seen.path == path]

    def add_operation(self, operation_id: str, **fields: Any) -> None:
        document = {
            "id": operation_id,
            "state": "running",
            "number": len(self.operations) + 1,
            "account": "fabric.main",
        }
        self.operations[operation_id] = document | fields

    def end_operation(self, operation_id: str, state: str = "succeeded") -> None:
        def end() -> None:
            self.operations[operation_id]["state"] = state
            self._notify()

        self.do(end)

    # --- the server

    def _run(self, listener: socket.socket, ready: threading.Event) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            self._wake = asyncio.Event()
            self._server = _Server(
                uvicorn.Config(self._app(), log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1),
                ready,
            )
            await self._server.serve(sockets=[listener])

        asyncio.run(serve())
        listener.close()

    def _app(self) -> Starlette:
        routes = [
            Route("/v1/status", self._status),
            Route("/v1/drain", self._drain, methods=["POST"]),
            Route("/v1/leases", self._list_leases),
            Route("/v1/leases", self._hold, methods=["POST"]),
            Route("/v1/leases/{id}", self._lease),
            Route("/v1/leases/{id}", self._release, methods=["DELETE"]),
            Route("/v1/leases/{id}/renew", self._renew, methods=["POST"]),
            *(
                Route(f"/v1/leases/{{id}}/{how}", self._settle, methods=["POST"])
                for how in ("complete", "abandon", "defer", "dead-letter")
            ),
            *(
                Route(f"/v1/leases/{{id}}/messages/{{handle}}/{how}", self._settle_received, methods=["POST"])
                for how in ("complete", "abandon", "defer", "dead-letter")
            ),
            Route("/v1/leases/{id}/messages", self._in_flight),
            Route("/v1/leases/{id}/receive", self._receive, methods=["POST"]),
            Route("/v1/leases/{id}/receive-deferred", self._receive_deferred, methods=["POST"]),
            Route("/v1/leases/{id}/peek", self._peek),
            Route("/v1/leases/{id}/heartbeat", self._heartbeat, methods=["POST"]),
            Route("/v1/leases/{id}/state", self._state, methods=["GET", "PUT", "DELETE"]),
            Route("/v1/leases/{id}/events", self._lease_events),
            Route("/v1/operations", self._list_operations),
            Route("/v1/operations", self._follow, methods=["POST"]),
            Route("/v1/operations/wait", self._wait_many, methods=["POST"]),
            Route("/v1/operations/{id}", self._operation),
            Route("/v1/operations/{id}", self._forget_operation, methods=["DELETE"]),
            Route("/v1/operations/{id}/result", self._result),
            Route("/v1/operations/{id}/cancel", self._cancel, methods=["POST"]),
            Route("/v1/events", self._events),
        ]
        wrapped = [
            Route(route.path, self._noted(route.endpoint), methods=list(route.methods or ())) for route in routes
        ]
        return Starlette(routes=wrapped)

    def _noted(self, endpoint: Any) -> Any:
        async def handle(request: Request) -> Response:
            seen = Seen(
                request.method,
                request.url.path,
                request.query_params.multi_items(),
                dict(request.headers),
                await request.body(),
            )
            with self._changed:
                self.seen.append(seen)
                self._changed.notify_all()
            scripted = self.answers.get((request.method, request.url.path))
            if scripted is not None:
                return scripted
            identifier = request.path_params.get("id")
            if identifier is not None and identifier not in self.leases and identifier not in self.operations:
                return problem(404, "nothing has this id")
            return await endpoint(request)

        return handle

    def _notify(self) -> None:
        self._wake.set()
        self._wake = asyncio.Event()

    async def _wait(self, request: Request, condition: Callable[[], bool]) -> None:
        deadline_s = float(request.query_params.get("wait", 0))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while not condition():
                    await self._wake.wait()

    def _tell(self, lease_id: str, type_: str, data: dict[str, Any]) -> None:
        lease = self.leases[lease_id]
        for name, value in {
            "lease.acquired": {"state": "held"},
            "lease.reacquired": {"state": "held"},
            "lease.renewed": {"state": "held", "renewals": lease["renewals"] + 1},
            "lease.recovered": {"state": "held"},
            "lease.at_risk": {"state": "at_risk", "remaining_s": -0.5},
            "lease.lost": {"state": "lost"},
            "lease.released": {"state": "released"},
            "lease.parked": {"state": "acquiring", "parked": True},
        }.get(type_, {}).items():
            lease[name] = value
        if type_ in {"lease.acquired", "lease.reacquired"}:
            lease["epoch"] += 1
            lease |= self._lock()
        if type_ == "lease.lost":
            lease["last_loss"] = {"reason": data["reason"], "detail": data.get("detail", ""), "epoch": lease["epoch"]}
            data = {"final": True} | data
        document = {
            "id": f"1-{len(self.log) + 1}",
            "type": type_,
            "time": now().isoformat(),
            "subject": lease_id,
            "data": {"kind": lease["kind"], "entity": lease["entity"], "epoch": lease["epoch"]} | data,
        }
        self.log.append((type_, document))
        for subject, queue in self._readers:
            if subject is None or subject == lease_id:
                queue.put_nowait((type_, document))
        self._notify()

    def _lock(self) -> dict[str, Any]:
        return {
            "lock_duration_s": self.lock_duration_s,
            "remaining_s": self.lock_duration_s,
            "locked_until_utc": (now() + timedelta(seconds=self.lock_duration_s)).isoformat(),
        }

    async def _status(self, _request: Request) -> Response:
        state = "draining" if self.draining else "ready"
        return JSONResponse(
            {"version": "9", "state": state, "leases": {"held": 1}, "limits": {"leases": 3}, "new": [1]}
        )

    async def _drain(self, request: Request) -> Response:
        self.draining = (await request.json())["enabled"]
        return await self._status(request)

    async def _list_leases(self, request: Request) -> Response:
        return self._page(request, list(self.leases.values()))

    async def _list_operations(self, request: Request) -> Response:
        return self._page(request, list(self.operations.values()))

    def _page(self, request: Request, items: list[dict[str, Any]]) -> Response:
        states = request.query_params.getlist("state")
        ends = {"lost", "released", "succeeded", "failed", "canceled"}
        chosen = [
            item
            for item in items
            if not states or {item["state"], "ended" if item["state"] in ends else "living"} & set(states)
        ]
        begin = int(request.query_params.get("after", 0))
        end = begin + int(request.query_params.get("limit", self.page))
        return JSONResponse({"items": chosen[begin:end], "next": str(end) if end < len(chosen) else None})

    async def _hold(self, request: Request) -> Response:
        if self.draining:
            return problem(429, "draining", {"Retry-After": "7"})
        body, key = await request.json(), request.headers.get("idempotency-key", "")
        if key in self.keys:
            return JSONResponse(self.leases[self.keys[key]], 200, {"Idempotent-Replayed": "true"})
        for lease in self.leases.values():
            same = lease["session_id"] is not None and lease["session_id"] == body.get("session_id")
            if same and lease["entity"] == body["entity"] and lease["state"] not in {"lost", "released"}:
                owners = lease["owner"]["kind"], body.get("owner", {}).get("kind", "none")
                if owners == ("none", "none") and lease["labels"] == body.get("labels", {}):
                    return JSONResponse(lease)
                what = f"session {lease['session_id']!r} of {lease['entity']}"
                detail = f"{what} is kept already, by {lease['id']} (owner {owners[0]}, since 52 s)"
                return problem(409, detail, extra={"lease": lease["id"]})
        lease_id = f"lease-{len(self.leases) + 1}"
        self.keys[key] = lease_id
        self.leases[lease_id] = {
            "id": lease_id,
            "number": len(self.leases) + 1,
            "kind": body.get("kind", "session"),
            "state": "acquiring",
            "parked": False,
            "servicebus": "main",
            "entity": body["entity"],
            "session_id": body.get("session_id"),
            "epoch": 0,
            "renewals": 0,
            "registered_at": now().isoformat(),
            "labels": body.get("labels", {}),
            "owner": body.get("owner", {"kind": "none"}),
            "of_the_future": True,
        }
        if self.refuses:
            self.refuses -= 1
            self._tell(lease_id, "lease.lost", {"reason": self.refusal, "detail": "no sessions here"})
        elif self.grants:
            self.leases[lease_id]["session_id"] = body.get("session_id") or "next"
            self._tell(lease_id, "lease.acquired", {})
        await self._wait(request, lambda: self.leases[lease_id]["state"] != "acquiring")
        return JSONResponse(self.leases[lease_id], 201)

    async def _lease(self, request: Request) -> Response:
        lease_id = request.path_params["id"]
        over = request.query_params.get("until") == "over"
        ends = {"lost", "released"} if over else {"held", "at_risk", "lost", "released"}
        await self._wait(request, lambda: self.leases[lease_id]["state"] in ends)
        return JSONResponse(self.leases[lease_id])

    async def _release(self, request: Request) -> Response:
        lease_id = request.path_params["id"]
        if self.leases[lease_id]["state"] != "lost":
            self._tell(lease_id, "lease.released", {})
        if request.query_params.get("forget") == "true":
            del self.leases[lease_id]
        return Response(status_code=204)

    async def _renew(self, request: Request) -> Response:
        lease = self.leases[request.path_params["id"]]
        if lease["state"] == "lost":
            return problem(409, "the lease is lost", extra={"state": "lost", "reason": "expired"})
        lease |= self._lock()
        return JSONResponse(lease)

    async def _settle(self, request: Request) -> Response:
        lease_id, _, how = request.path_params["id"], *request.url.path.rpartition("/")[1:]
        lease = self.leases[lease_id]
        settled = {"complete": "completed", "abandon": "abandoned", "defer": "deferred", "dead-letter": "dead-lettered"}
        if lease["state"] == "lost":
            return problem(409, "the lock is lost", extra={"state": "lost", "reason": "expired"})
        if lease.get("settled") not in (None, settled[how]):
            return problem(409, "it is settled", extra={"state": "settled", "settled": lease["settled"]})
        if lease["state"] != "released":
            lease["settled"] = settled[how]
            self._tell(lease_id, "lease.released", {"settled": settled[how]})
        return JSONResponse(lease)

    def bring(self, *messages: dict[str, Any]) -> None:
        """Let messages be there for whoever receives."""

        def add() -> None:
            self.messages += messages
            self._notify()

        self.do(add)

    async def _receive(self, request: Request) -> Response:
        lease = self.leases[request.path_params["id"]]
        await self._wait(request, lambda: bool(self.messages) or lease["state"] != "held")
        if lease["state"] == "lost":
            return problem(409, "the session is lost", extra={"state": "lost", "reason": "expired"})
        if lease["state"] != "held":
            return problem(409, f"the lease is {lease['state']}", extra={"state": lease["state"]})
        return self._took((await request.json())["max"])

    async def _receive_deferred(self, request: Request) -> Response:
        if len(self.messages) < len((await request.json())["sequence_numbers"]):
            return problem(409, "not all of these are there")
        return self._took(len((await request.json())["sequence_numbers"]))

    def _took(self, count: int) -> Response:
        taken, self.messages = self.messages[:count], self.messages[count:]
        self.flying |= {message["handle"]: message for message in taken}
        return JSONResponse({"messages": taken})

    async def _peek(self, request: Request) -> Response:
        count = int(request.query_params.get("max", 1))
        return JSONResponse({"messages": [message | {"handle": None} for message in self.messages[:count]]})

    async def _in_flight(self, _request: Request) -> Response:
        flying = [{"handle": handle, "sequence_number": 1, "is_lost": False} for handle in self.flying]
        return JSONResponse({"messages": flying})

    async def _settle_received(self, request: Request) -> Response:
        handle, how = request.path_params["handle"], request.url.path.rpartition("/")[2]
        if self.leases[request.path_params["id"]]["state"] == "lost":
            return problem(409, "it will be delivered again", extra={"state": "lost", "reason": "expired"})
        if self.flying.pop(handle, None) is None:
            return problem(404, "no message has this handle")
        self.settled.append((handle, how, json.loads(await request.body() or b"null")))
        return Response(status_code=204)

    async def _heartbeat(self, request: Request) -> Response:
        lease = self.leases[request.path_params["id"]]
        return JSONResponse(lease) if lease["owner"]["kind"] == "heartbeat" else problem(409, "no heartbeats here")

    async def _state(self, request: Request) -> Response:
        lease_id = request.path_params["id"]
        if self.leases[lease_id]["state"] != "held":
            return problem(409, f"the lease is {self.leases[lease_id]['state']}")
        if request.method == "GET" and lease_id in self.states:
            return Response(self.states[lease_id], media_type="application/octet-stream")
        if request.method == "PUT":
            self.states[lease_id] = await request.body()
        if request.method == "DELETE":
            self.states.pop(lease_id, None)
        return Response(status_code=204)

    async def _lease_events(self, request: Request) -> Response:
        lease_id = request.path_params["id"]
        owner = request.query_params.get("owner") == "true"
        if owner and self.leases[lease_id]["owner"]["kind"] != "connection":
            return problem(409, "not kept by a connection")
        first = [("snapshot", dict(self.leases[lease_id]))]
        return StreamingResponse(self._stream(lease_id, first, owner), media_type="text/event-stream")

    async def _events(self, request: Request) -> Response:
        after = request.headers.get("last-event-id") or request.query_params.get("after")
        missed = self.log[int(after.partition("-")[2]) :] if after is not None else []
        return StreamingResponse(self._stream(None, missed, False), media_type="text/event-stream")

    async def _stream(self, subject: str | None, first: list[tuple[str, Any]], owner: bool) -> Any:
        queue: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue()
        reader = (subject, queue)
        self._readers.append(reader)
        if owner and subject is not None:
            with self._changed:
                self.owners[subject] = self.owners.get(subject, 0) + 1
                self._changed.notify_all()
        try:
            for type_, document in first:
                yield sent(type_, document)
            while True:
                try:
                    async with asyncio.timeout(self.keep_alive_s):
                        item = await queue.get()
                except TimeoutError:
                    yield b": keep-alive\n\n"
                    continue
                if item is None:
                    return
                yield sent(*item)
                if subject is not None and item[0] in {"lease.released", "lease.lost"}:
                    return
        finally:
            self._readers.remove(reader)
            if owner and subject is not None:
                with self._changed:
                    self.owners[subject] -= 1
                    self._changed.notify_all()

    def break_streams(self) -> None:
        """End every stream, as if its connection broke."""

        def end() -> None:
            for _, queue in self._readers:
                queue.put_nowait(None)

        self.do(end)

    async def _follow(self, request: Request) -> Response:
        operation_id = f"op-{len(self.operations) + 1}"
        self.add_operation(operation_id)
        await self._wait(request, lambda: self.operations[operation_id]["state"] != "running")
        return JSONResponse(self.operations[operation_id], 201)

    async def _operation(self, request: Request) -> Response:
        operation_id = request.path_params["id"]
        await self._wait(request, lambda: self.operations[operation_id]["state"] != "running")
        return JSONResponse(self.operations[operation_id])

    async def _wait_many(self, request: Request) -> Response:
        body = await request.json()
        known = [item for item in body["ids"] if item in self.operations]

        def done() -> bool:
            ended = [self.operations[item]["state"] != "running" for item in known]
            return any(ended) if body["until"] == "any" else all(ended)

        await self._wait(request, done)
        missing = [item for item in body["ids"] if item not in self.operations]
        return JSONResponse({"done": done(), "items": [self.operations[item] for item in known], "missing": missing})

    async def _result(self, request: Request) -> Response:
        operation_id = request.path_params["id"]
        if self.operations[operation_id]["state"] == "running":
            return problem(409, "it is still running")
        if operation_id not in self.results:
            return Response(status_code=204)
        content_type, content = self.results[operation_id]
        return Response(content, headers={"Content-Type": content_type})

    async def _cancel(self, request: Request) -> Response:
        operation = self.operations[request.path_params["id"]]
        operation["state"] = "canceled"
        return JSONResponse(operation, 202)

    async def _forget_operation(self, request: Request) -> Response:
        del self.operations[request.path_params["id"]]
        return Response(status_code=204)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def problem(
    status: int, detail: str, headers: dict[str, str] | None = None, extra: dict[str, Any] | None = None
) -> Response:
    document = {"type": "about:blank", "title": "x", "status": status, "detail": detail, **(extra or {})}
    return JSONResponse(document, status, headers, media_type="application/problem+json")


def sent(type_: str, document: dict[str, Any]) -> bytes:
    identifier = f"id: {document['id']}\n" if type_ != "snapshot" else ""
    return f"{identifier}event: {type_}\ndata: {json.dumps(document)}\n\n".encode()


def now() -> datetime:
    return datetime.now(UTC)
