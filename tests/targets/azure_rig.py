"""An Azure target on a scripted transport, and operations followed from their first request to their end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from renewer.core.model import Ended, OperationId, OperationSpec, PollAnswer, Result, StillRunning, Succeeded
from renewer.ports import FollowTerms
from renewer.targets.azure import DEFAULT_BASE_URL, AzureTarget, Ticket
from renewer.targets.rest import AccountOptions, Adopt, Submit
from renewer.targets.spool import Spool
from tests.targets.fabric_rig import CountedTokens, FixedClock, reply

HOST = "https://management.azure.com"
FOREIGN = "https://evil.example.net"
URL = "/subscriptions/s1/providers/Microsoft.Test/tests/t1?api-version=2026-01-01"
ASKED = f"{HOST}{URL}"
MONITOR = f"{HOST}/subscriptions/s1/operations/o1?api-version=2026-01-01"
RESULT_AT = f"{HOST}/subscriptions/s1/results/o1?api-version=2026-01-01"
PRODUCT = {"id": "100", "name": "foo"}

Script = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


def azure_options(**fields: Any) -> AccountOptions:
    return AccountOptions("azure.main", fields.pop("base_url", DEFAULT_BASE_URL), **fields)


@dataclass
class AzureRig:
    """A target whose service answers as scripted, one entry for each request; every request is kept."""

    options: AccountOptions = field(default_factory=azure_options)
    clock: FixedClock = field(default_factory=FixedClock)
    tokens: CountedTokens = field(default_factory=CountedTokens)
    spool: Spool | None = None
    requests: list[httpx.Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._script: list[Script] = []
        client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        self.target = AzureTarget(self.options, self.tokens, self.clock, client, spool=self.spool)

    def answers(self, *script: Script) -> AzureRig:
        self._script.extend(script)
        return self

    async def submit(
        self, method: str = "PUT", url: str = URL, *, terms: FollowTerms | None = None, **fields: Any
    ) -> PollAnswer:
        return await self.target.submit(spec_of(Submit(method, url, terms=terms or FollowTerms(), **fields)))

    def adopt(self, method: str, status: int, headers: Mapping[str, str] | None = None, **fields: Any) -> PollAnswer:
        terms = fields.pop("terms", FollowTerms())
        url = fields.pop("url", URL)
        return self.target.adopt(Adopt(method, url, status, headers or {}, fields.pop("body", None), terms))

    async def poll(self, ticket: object) -> PollAnswer:
        return await self.target.poll(spec_of(None), ticket)

    async def fetch(self, ticket: object) -> Result:
        return await self.target.fetch(spec_of(None), ticket)

    async def follow(self, method: str = "PUT", *script: Script, **fields: Any) -> Followed:
        """Submit, poll and fetch to the end, or that of the script; each ticket is once stored and read again."""
        self.answers(*script)
        answer = await self.submit(method, **fields)
        ticket: object = None
        while True:
            ticket = getattr(answer, "ticket", None) or ticket
            ticket = self.target.load_ticket(json.loads(json.dumps(self.target.dump_ticket(ticket))))
            match answer:
                case Ended():
                    return Followed(answer.outcome, answer.status, None, answer.error, self.paths)
                case Succeeded(result=None):
                    return Followed("succeeded", answer.status, await self.fetch(ticket), None, self.paths)
                case Succeeded():
                    return Followed("succeeded", answer.status, answer.result, None, self.paths)
                case StillRunning() if self._script:
                    answer = await self.poll(ticket)
                case StillRunning():
                    return Followed("running", answer.status, None, None, self.paths)

    @property
    def urls(self) -> list[str]:
        return [str(request.url) for request in self.requests]

    @property
    def paths(self) -> list[str]:
        return [f"{request.method} {str(request.url).partition('?')[0]}" for request in self.requests]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if not self._script:
            raise AssertionError(f"nothing scripted for {request.method} {request.url}")
        entry = self._script.pop(0)
        if isinstance(entry, Exception):
            raise entry
        return entry if isinstance(entry, httpx.Response) else entry(request)


@dataclass
class Followed:
    """How an operation ended, and what was asked on the way."""

    outcome: str
    status: str | None
    result: Result | None
    error: Mapping[str, object] | None
    asked: list[str]

    @property
    def left(self) -> object:
        """The result, read; None if there is none."""
        if self.result is None or self.result.kind == "none":
            return None
        return json.loads(self.result.body) if self.result.kind == "json" else self.result.body


def spec_of(request: object, **fields: Any) -> OperationSpec:
    return OperationSpec(OperationId("op-1"), "azure.main", request, **fields)


def ticket(protocol: Any = "azure-async-operation", method: str = "PUT", **fields: Any) -> Ticket:
    poll = ASKED if protocol == "body" else MONITOR
    return Ticket(protocol, method, ASKED, fields.pop("poll", poll), **fields)


def monitored(
    status: int = 202, body: object = None, *, header: str = "Azure-AsyncOperation", **headers: str
) -> httpx.Response:
    """A first answer that names a status monitor."""
    return answer(status, body, {header: MONITOR, **{name.replace("_", "-"): text for name, text in headers.items()}})


def located(status: int = 202, body: object = None, location: str = MONITOR, **headers: str) -> httpx.Response:
    """An answer that names a Location."""
    return answer(
        status, body, {"Location": location, **{name.replace("_", "-"): text for name, text in headers.items()}}
    )


def says(status: str, headers: Mapping[str, str] | None = None, **fields: object) -> httpx.Response:
    """A status monitor's answer."""
    return reply(200, {"status": status, **fields}, headers)


def resource(state: str | None, status: int = 200, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """A resource with its provisioningState."""
    properties = {} if state is None else {"properties": {"provisioningState": state}}
    return answer(status, {**properties, **PRODUCT}, headers)


def answer(status: int, body: object = None, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """An answer without body, or with JSON for one."""
    if body is None:
        return httpx.Response(status, headers=headers)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.Response(status, headers={"Content-Type": "application/json", **(headers or {})}, content=content)
