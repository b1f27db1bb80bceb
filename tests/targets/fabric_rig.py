"""A Fabric target on a scripted transport, and clocks that stand where they are put."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from renewer.core.model import OperationId, OperationSpec, PollAnswer, Result
from renewer.core.timing import PollPolicy
from renewer.ports import DEFAULT_TERMS, FollowTerms
from renewer.targets.fabric import DEFAULT_BASE_URL, FabricTarget
from renewer.targets.rest import AccountOptions, Adopt, Submit

OPERATION_ID = "1ef1722c-1a26-4029-9b07-d8c78e1d8a22"
STATE_PATH = f"/v1/operations/{OPERATION_ID}"
RESULT_PATH = f"{STATE_PATH}/result"
HOST = "https://api.fabric.microsoft.com"
BACKEND = "https://wabi-us-central-b-primary-redirect.analysis.windows.net"
JOB_PATH = "/v1/workspaces/w1/items/i1/jobs/instances/5b1a2f7e-0001-4a5b-8c9d-0123456789ab"
ACCEPTED = {
    "Location": f"{BACKEND}{STATE_PATH}",
    "x-ms-operation-id": OPERATION_ID,
    "Retry-After": "20",
}


def fabric_options(base_url: str = DEFAULT_BASE_URL, **fields: Any) -> AccountOptions:
    return AccountOptions("fabric.main", base_url, **fields)


@dataclass
class FixedClock:
    """Clocks that move only when told."""

    monotonic: float = 0.0
    wall: datetime = datetime(2026, 7, 20, 10, 22, 19, tzinfo=UTC)

    def now(self) -> float:
        return self.monotonic

    def utc_now(self) -> datetime:
        return self.wall

    def pass_s(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += timedelta(seconds=seconds)


@dataclass
class CountedTokens:
    """Gives token-1 until a fresh one is asked for, then token-2, and so on."""

    number: int = 1

    async def token(self, *, fresh: bool = False) -> str:
        self.number += fresh
        return f"token-{self.number}"


Script = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


@dataclass
class Rig:
    """A target whose service answers as scripted, one entry for each request; every request is kept."""

    options: AccountOptions = field(default_factory=fabric_options)
    clock: FixedClock = field(default_factory=FixedClock)
    tokens: CountedTokens = field(default_factory=CountedTokens)
    requests: list[httpx.Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._script: list[Script] = []
        client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        self.target = FabricTarget(self.options, self.tokens, self.clock, client)

    def answers(self, *script: Script) -> Rig:
        self._script.extend(script)
        return self

    async def submit(self, url: str = "/workspaces/w1/notebooks", method: str = "POST", **fields: object) -> PollAnswer:
        return await self.target.submit(spec_of(Submit(method, url, **fields)))

    async def poll(self, ticket: object) -> PollAnswer:
        return await self.target.poll(spec_of(None), ticket)

    async def fetch(self, ticket: object) -> Result:
        return await self.target.fetch(spec_of(None), ticket)

    @property
    def urls(self) -> list[str]:
        return [str(request.url) for request in self.requests]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if not self._script:
            raise AssertionError(f"nothing scripted for {request.method} {request.url}")
        entry = self._script.pop(0)
        if isinstance(entry, Exception):
            raise entry
        return entry if isinstance(entry, httpx.Response) else entry(request)


def spec_of(request: object, *, retry_safe: bool = False, policy: PollPolicy | None = None) -> OperationSpec:
    return OperationSpec(
        OperationId("op-1"), "fabric.main", request, retry_safe=retry_safe, policy=policy or PollPolicy()
    )


def adopt(
    headers: Mapping[str, str] | None = None,
    *,
    status: int = 202,
    body: object = None,
    method: str = "POST",
    url: str = "/workspaces/w1/notebooks",
    rig: Rig | None = None,
    terms: FollowTerms = DEFAULT_TERMS,
) -> PollAnswer:
    return (rig or Rig()).target.adopt(Adopt(method, url, status, headers or {}, body, terms))


def reply(status: int = 200, document: object = None, headers: Mapping[str, str] | None = None) -> httpx.Response:
    return httpx.Response(status, headers=headers, content=json.dumps(document).encode())


def state(status: str, headers: Mapping[str, str] | None = None, **fields: object) -> httpx.Response:
    document = {"status": status, "createdTimeUtc": "2026-07-20T10:22:18.851239", "error": None, **fields}
    return reply(200, document, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})
