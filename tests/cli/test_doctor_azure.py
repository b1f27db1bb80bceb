"""What the doctor says of an Azure account."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from renewer.asgi import listen_tcp, serve
from renewer.cli.doctor import accounts
from renewer.cli.doctor.findings import Verdict
from renewer.config import AzureSettings
from tests.cli.doctor_rig import findings_of, servers, settings

pytestmark = pytest.mark.anyio

SUBSCRIPTION = {"value": [{"subscriptionId": "s"}]}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Service:
    """Answers everything alike, and remembers what it was asked for."""

    def __init__(self, status: int, document: Any) -> None:
        self.status = status
        self.document = document
        self.asked: list[Request] = []
        self.base_url = ""

    async def answer(self, request: Request) -> Response:
        self.asked.append(request)
        return JSONResponse(self.document, self.status, {"Date": formatdate(usegmt=True)})


@asynccontextmanager
async def service(status: int = 200, document: Any = None) -> AsyncIterator[Service]:
    made = Service(status, document)
    listener = listen_tcp("127.0.0.1", 0)
    try:
        async with anyio.create_task_group() as tasks:
            app = Starlette(routes=[Route("/{path:path}", made.answer)])
            await tasks.start(serve, app, listener)
            made.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield made
            tasks.cancel_scope.cancel()
    finally:
        listener.close()


def account(service: Service, **changes: Any) -> dict[str, Any]:
    return {"azure": {"main": {"base_url": service.base_url, "token": "local"} | changes}}


@pytest.fixture
def resource_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service on this machine is taken for Azure Resource Manager."""
    monkeypatch.setattr(accounts, "_RESOURCE_MANAGERS", ("127.0.0.1",))


async def test_a_resource_manager_that_shows_a_subscription_is_found_well(
    tmp_path: Path, resource_manager: None
) -> None:
    async with service(document=SUBSCRIPTION) as azure:
        found = await findings_of(settings(tmp_path, account(azure)), "azure.main")
    assert list(found) == ["token", "reach", "permission", "clock"]
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    (asked,) = azure.asked
    assert (asked.method, asked.url.path, asked.url.query) == ("GET", "/subscriptions", "api-version=2022-12-01")
    assert asked.headers["authorization"] == "Bearer local"


async def test_an_identity_without_any_role_is_a_warning(tmp_path: Path, resource_manager: None) -> None:
    async with service(document={"value": []}) as azure:
        found = await findings_of(settings(tmp_path, account(azure)), "azure.main")
    assert found["permission"].verdict is Verdict.WARN
    assert "no subscription" in found["permission"].seen


@pytest.mark.parametrize("is_resource_manager", [True, False])
async def test_a_token_that_is_refused_is_told_from_one_without_permission_in_the_service_s_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_resource_manager: bool
) -> None:
    monkeypatch.setattr(accounts, "_RESOURCE_MANAGERS", ("127.0.0.1",) if is_resource_manager else ())
    found = {}
    for status, code in ((401, "ExpiredAuthenticationToken"), (403, "AuthorizationFailed")):
        async with service(status, {"error": {"code": code, "message": "m"}}) as azure:
            found[status] = (await findings_of(settings(tmp_path, account(azure)), "azure.main"))["permission"]
    assert {finding.verdict for finding in found.values()} == {Verdict.FAIL}
    assert "401 ExpiredAuthenticationToken" in found[401].seen
    assert "403 AuthorizationFailed" in found[403].seen
    assert "[azure.main]" in str(found[401].remedy)
    assert "a role" in str(found[403].remedy)


async def test_of_another_service_it_is_said_what_is_known_and_no_more(tmp_path: Path) -> None:
    for status in (200, 204, 404, 405):
        async with service(status, {} if status != 204 else None) as azure:
            changes = account(azure, base_url=f"{azure.base_url}/api")
            found = await findings_of(settings(tmp_path, changes), "azure.main")
        assert found["permission"].verdict is Verdict.OK
        assert "not refused" in found["permission"].seen
        assert azure.asked[0].url.path == "/api"


@pytest.mark.parametrize(
    ("status", "verdict"), [(429, Verdict.WARN), (503, Verdict.WARN), (302, Verdict.FAIL), (418, Verdict.FAIL)]
)
async def test_other_answers_are_told_as_what_they_are(tmp_path: Path, status: int, verdict: Verdict) -> None:
    async with service(status, {}) as azure:
        found = await findings_of(settings(tmp_path, account(azure)), "azure.main")
    assert found["permission"].verdict is verdict
    assert str(status) in found["permission"].seen
    assert len(azure.asked) == 1


async def test_accounts_of_both_kinds_are_examined_under_their_whole_names(tmp_path: Path) -> None:
    async with servers() as rig, service(document=SUBSCRIPTION) as azure:
        wanted = settings(tmp_path, rig.fabric_settings(), account(azure))
        assert await findings_of(wanted, "azure.main")
        assert await findings_of(wanted, "fabric.main")


@pytest.mark.parametrize(
    ("base_url", "asked"),
    [
        ("https://management.azure.com", "https://management.azure.com/subscriptions?api-version=2022-12-01"),
        (
            "https://westeurope.management.azure.com/subscriptions/x",
            "https://westeurope.management.azure.com/subscriptions?api-version=2022-12-01",
        ),
        ("https://x.cognitiveservices.azure.com/a", "https://x.cognitiveservices.azure.com/a"),
        ("https://evilmanagement.azure.com.example.org", "https://evilmanagement.azure.com.example.org"),
    ],
)
def test_what_is_asked_for_changes_nothing_anywhere(base_url: str, asked: str) -> None:
    assert httpx.URL(accounts._harmless(AzureSettings(base_url=base_url))) == httpx.URL(asked)
