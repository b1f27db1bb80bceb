"""What the doctor says of what lets us into a namespace, and of the way there over WebSocket."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from renewer.cli.doctor.findings import Finding, Verdict
from renewer.emulator import Broker, BrokerOptions
from renewer.targets.servicebus import credentials
from renewer.targets.servicebus.sas import shared_access_signature
from renewer.targets.tokens import AzureIdentityToken
from tests.cli.doctor_rig import KEY, QUEUES, connection_string, findings_of, servers, settings
from tests.targets.tls_rig import Authority

pytestmark = pytest.mark.anyio

TOKEN = "eyJhbGciOiJub25lIn0.eyJhcHBpZCI6Im15LWFwcCJ9.VE9QU0VDUkVU"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Given:
    token: str
    expires_on: int


class Source:
    """An identity that gives a token, or fails."""

    is_down = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Source]:
        yield self

    async def get_token(self, *scopes: str) -> Given:
        if self.is_down:
            raise RuntimeError("no identity here")
        return Given(TOKEN, int(time.time()) + 3600)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    made = Source()
    monkeypatch.setattr(
        credentials, "AzureIdentityToken", lambda scope, _, clock: AzureIdentityToken(scope, made.open, clock=clock)
    )
    return made


@asynccontextmanager
async def secure_websocket(authority: Authority, *, key: str | None = None) -> AsyncIterator[int]:
    """A Service Bus over WebSocket inside TLS; with a key it takes no token of an identity."""
    options = BrokerOptions() if key is None else BrokerOptions(key_name="local", key=key)
    broker = Broker(QUEUES, options=options)
    async with anyio.create_task_group() as tasks:
        await tasks.start(broker.serve)
        port = await tasks.start(partial(broker.serve_websocket, ssl_context=authority.server("127.0.0.1")))
        yield port
        tasks.cancel_scope.cancel()


async def examine(folder: Path, **section: Any) -> dict[str, Finding]:
    wanted = settings(folder, {"servicebus": {"main": section}}, {"session": [{"entity": "orders", "session_id": "a"}]})
    found = await findings_of(wanted, "servicebus.main")
    assert TOKEN not in repr(found)
    return found


def signed(port: int, left_s: float, *, key: str = KEY) -> str:
    ends_at = int(time.time() + left_s)
    text = shared_access_signature(f"sb://127.0.0.1:{port}", key_name="local", key=key, expires_at=ends_at)
    return f"Endpoint=sb://127.0.0.1:{port};SharedAccessSignature={text};UseDevelopmentEmulator=true"


async def test_a_ready_signature_that_is_good_for_long_is_well(tmp_path: Path) -> None:
    async with servers() as rig:
        found = await examine(tmp_path, connection_string=signed(rig.amqp_port, 30 * 86_400))
    assert list(found) == ["signature", "dns", "tcp", "connection", "amqp", "token orders", "entity orders"]
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    assert "'local' is good for 29d" in found["signature"].seen


async def test_a_ready_signature_that_ends_soon_is_warned_of(tmp_path: Path) -> None:
    async with servers() as rig:
        found = await examine(tmp_path, connection_string=signed(rig.amqp_port, 3 * 86_400))
    assert found["signature"].verdict is Verdict.WARN
    assert found["entity orders"].verdict is Verdict.OK


async def test_a_ready_signature_that_has_ended_is_said_and_not_shown_to_the_broker(tmp_path: Path) -> None:
    async with servers() as rig:
        found = await examine(tmp_path, connection_string=signed(rig.amqp_port, -60))
        assert found["signature"].verdict is Verdict.FAIL
        assert "put a new SharedAccessSignature" in str(found["signature"].remedy)
        assert found["amqp"].verdict is Verdict.OK
        assert list(found)[-1] == "amqp"


async def test_a_ready_signature_of_another_key_is_refused_with_its_own_remedy(tmp_path: Path) -> None:
    async with servers() as rig:
        found = await examine(tmp_path, connection_string=signed(rig.amqp_port, 30 * 86_400, key="d3Jvbmc="))
    token = found["token orders"]
    assert token.verdict is Verdict.FAIL
    assert "InvalidSignature" in token.seen
    assert str(token.remedy) not in token.seen
    assert "signed with a key that has not been replaced" in str(token.remedy)


async def test_an_identity_and_a_websocket_inside_tls_are_found_well(tmp_path: Path, source: Source) -> None:
    authority = Authority(tmp_path)
    async with secure_websocket(authority) as port:
        found = await examine(
            tmp_path,
            fully_qualified_namespace=f"127.0.0.1:{port}",
            transport="amqp-websocket",
            ca_file=str(authority.file),
        )
    assert list(found) == ["identity", "dns", "tcp", "tls", "websocket", "amqp", "token orders", "entity orders"]
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    assert "a token of my-app, good for 59m" in found["identity"].seen
    assert found["token orders"].seen == "the identity's token is accepted"


async def test_an_identity_without_a_token_costs_the_network_no_finding(tmp_path: Path, source: Source) -> None:
    authority, source.is_down = Authority(tmp_path), True
    async with secure_websocket(authority) as port:
        found = await examine(
            tmp_path,
            fully_qualified_namespace=f"127.0.0.1:{port}",
            transport="amqp-websocket",
            ca_file=str(authority.file),
        )
    assert found["identity"].verdict is Verdict.FAIL
    assert "no identity here" in found["identity"].seen
    assert list(found)[-1] == "amqp"
    assert found["amqp"].verdict is Verdict.OK


async def test_an_identity_that_the_broker_refuses_is_told_which_role_it_lacks(tmp_path: Path, source: Source) -> None:
    authority = Authority(tmp_path)
    async with secure_websocket(authority, key=KEY) as port:
        found = await examine(
            tmp_path,
            fully_qualified_namespace=f"127.0.0.1:{port}",
            transport="amqp-websocket",
            ca_file=str(authority.file),
        )
    assert "Azure Service Bus Data Receiver" in str(found["token orders"].remedy)


async def test_a_port_that_speaks_no_websocket_is_said(tmp_path: Path) -> None:
    async def answer(stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream):  # One comes to see whether the port is open.
                await stream.receive()
            await stream.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        port = listener.extra(SocketAttribute.local_port)
        found = await examine(tmp_path, connection_string=connection_string(port), transport="amqp-websocket")
        tasks.cancel_scope.cancel()
    assert list(found) == ["dns", "tcp", "connection", "websocket"]
    assert "HTTP status 407" in found["websocket"].seen
    assert "lets WebSockets through" in str(found["websocket"].remedy)


async def test_a_proxy_that_is_not_there_is_what_is_said(tmp_path: Path) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
    found = await examine(
        tmp_path,
        connection_string="Endpoint=sb://ns.invalid;SharedAccessKeyName=n;SharedAccessKey=a2V5",
        transport="amqp-websocket",
        proxy=f"http://127.0.0.1:{port}",
    )
    assert list(found) == ["dns", "tcp"]
    assert found["tcp"].verdict is Verdict.FAIL
    assert f"127.0.0.1:{port}" in str(found["tcp"].remedy)
