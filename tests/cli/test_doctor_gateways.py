"""What the doctor says of a gateway: its address, and whether its keys let workers in."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from renewer.cli.doctor.findings import Verdict
from renewer.daemon.build import gateway_options
from renewer.daemon.clock import SystemClock
from renewer.daemon.gateways import Gateways
from tests.cli.doctor_rig import Servers, findings_of, servers
from tests.config.test_config_namespaces import write_pem
from tests.ports import free_port
from tests.targets.tls_rig import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from renewer.config import Settings

pytestmark = pytest.mark.anyio

KEY = "c2VjcmV0LW9mLXdvcmtlcnM="


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def with_gateway(made: Servers, folder: Path, listen: str, **changes: Any) -> Settings:
    keys = [{"name": "local", "key": KEY, "entities": ["orders"]}]
    return made.settings(folder, {"gateway": [{"listen": listen, "key": keys} | changes]})


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[None]:
    """The gateways of these settings, without a daemon around them."""
    gateways = Gateways(gateway_options(settings, {}), SystemClock(), note=lambda _spec: None, post=lambda _event: None)
    async with anyio.create_task_group() as tasks:
        gateways.bind()
        await gateways.start(tasks)
        await gateways.open(tasks)
        yield
        await gateways.stop("the test is over")
        tasks.cancel_scope.cancel()


def certificate(folder: Path) -> str:
    """One that is good for a while, for another name than that of this machine."""
    Authority(folder).server("gateway.example")
    (file,) = folder.glob("server-*.pem")
    return str(file)


async def test_an_address_that_nobody_has_is_free(tmp_path: Path) -> None:
    async with servers() as made:
        found = await findings_of(with_gateway(made, tmp_path, f"127.0.0.1:{free_port()}"), "gateway.main")
        assert {check: finding.verdict for check, finding in found.items()} == {"port": Verdict.OK}
        assert "free" in found["port"].seen


async def test_an_address_in_use_while_no_daemon_runs_is_told(tmp_path: Path) -> None:
    async with servers() as made:
        settings = with_gateway(made, tmp_path, f"127.0.0.1:{free_port()}")
        async with running(settings):
            found = await findings_of(settings, "gateway.main")
            with socket.socket(socket.AF_UNIX) as daemon:
                daemon.bind(str(tmp_path / "api.sock"))
                daemon.listen()
                beside_a_daemon = await findings_of(settings, "gateway.main")
    assert found["port"].verdict is Verdict.WARN
    assert "no daemon listens at unix:" in found["port"].seen
    assert "exit code 73" in str(found["port"].remedy)
    assert found["key local"].verdict is Verdict.OK
    assert beside_a_daemon["port"].verdict is Verdict.OK


async def test_each_key_is_tried_against_a_gateway_that_runs(tmp_path: Path) -> None:
    async with servers() as made:
        address = f"127.0.0.1:{free_port()}"
        async with running(with_gateway(made, tmp_path, address)):
            keys = [
                {"name": "local", "key": KEY, "entities": ["events*", "orders"]},
                {"name": "stale", "key": KEY[::-1], "entities": ["orders"]},
                {"name": "patterns", "key": KEY * 2, "entities": ["*"]},
            ]
            found = await findings_of(with_gateway(made, tmp_path, address, key=keys), "gateway.main")
    assert found["key local"].seen == "lets workers in to orders"
    assert found["key stale"].verdict is Verdict.FAIL
    assert "restart the daemon" in str(found["key stale"].remedy)
    assert found["key patterns"].verdict is Verdict.OK
    assert "patterns alone" in found["key patterns"].seen
    assert KEY not in str(found)


@pytest.mark.parametrize("kind", ["unix", "tls"])
async def test_sockets_and_tls_are_tried_as_well(tmp_path: Path, kind: str) -> None:
    async with servers() as made:
        if kind == "unix":
            settings = with_gateway(made, tmp_path, f"unix:{tmp_path}/g.sock")
        else:
            settings = with_gateway(made, tmp_path, f"127.0.0.1:{free_port()}", tls_cert_file=certificate(tmp_path))
        async with running(settings):
            found = await findings_of(settings, "gateway.main")
    assert found["key local"].seen == "lets workers in to orders"


async def test_a_certificate_that_has_ended_is_told(tmp_path: Path) -> None:
    write_pem(tmp_path / "gateway.pem")
    async with servers() as made:
        pem = str(tmp_path / "gateway.pem")
        settings = with_gateway(made, tmp_path, f"127.0.0.1:{free_port()}", tls_cert_file=pem)
        async with running(settings):
            found = await findings_of(settings, "gateway.main")
    assert "expired" in found["key local"].seen
    assert "tls_cert_file" in str(found["key local"].remedy)


async def test_a_gateway_without_its_broker_lets_nobody_in(tmp_path: Path) -> None:
    async with servers() as made:
        settings = with_gateway(made, tmp_path, f"127.0.0.1:{free_port()}")
    async with running(settings):
        found = await findings_of(settings, "gateway.main")
    assert found["key local"].verdict is Verdict.FAIL
    assert "[servicebus.main]" in str(found["key local"].remedy)


async def test_something_else_at_the_address_is_told(tmp_path: Path) -> None:
    async with servers() as made:
        found = await findings_of(with_gateway(made, tmp_path, f"127.0.0.1:{made.http_port}"), "gateway.main")
    assert found["key local"].verdict is Verdict.FAIL
