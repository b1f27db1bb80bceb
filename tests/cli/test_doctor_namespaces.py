"""What the doctor says of a Service Bus namespace, against the emulator and things that are none."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSListener
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from renewer.cli.doctor.findings import Verdict
from renewer.emulator import Fault, FaultAction
from tests.cli.doctor_rig import connection_string, findings_of, servers, settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_namespace_that_is_well_is_found_well_and_nothing_is_held_there(tmp_path: Path) -> None:
    async with servers() as rig:
        found = await findings_of(rig.settings(tmp_path), "servicebus.main")
        assert list(found) == ["dns", "tcp", "connection", "amqp", "token orders", "entity orders"]
        assert {finding.verdict for finding in found.values()} == {Verdict.OK}
        assert rig.broker.counters.sessions_held == 0


async def test_a_wrong_key_is_told_from_a_broker_that_is_down_and_is_not_shown(tmp_path: Path) -> None:
    async with servers() as rig:
        found = await findings_of(rig.settings(tmp_path, key="d3Jvbmc="), "servicebus.main")
    assert found["amqp"].verdict is Verdict.OK
    token = found["token orders"]
    assert token.verdict is Verdict.FAIL
    assert "InvalidSignature" in token.seen
    assert "'local'" in str(token.remedy)
    assert "entity orders" not in found
    assert not any("d3Jvbmc=" in repr(finding) for finding in found.values())


async def test_each_entity_is_tried_and_has_a_remedy_of_its_own(tmp_path: Path) -> None:
    async with servers() as rig:
        found = await findings_of(rig.settings(tmp_path, entities=["orders", "plain", "missing"]), "servicebus.main")
    assert found["entity orders"].verdict is Verdict.OK
    assert "with sessions" in str(found["entity plain"].remedy)
    assert "create missing" in str(found["entity missing"].remedy)


async def test_a_port_where_nobody_listens_is_said_and_nothing_after_it(tmp_path: Path) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
    wanted = settings(tmp_path, {"servicebus": {"main": {"connection_string": connection_string(port)}}})
    found = await findings_of(wanted, "servicebus.main")
    assert list(found) == ["dns", "tcp"]
    assert found["tcp"].seen == "Connection refused"
    assert f"127.0.0.1:{port}" in str(found["tcp"].remedy)


async def test_a_name_that_nobody_knows_is_said(tmp_path: Path) -> None:
    text = "Endpoint=sb://no-such-host.invalid;SharedAccessKeyName=n;SharedAccessKey=a2V5"
    found = await findings_of(
        settings(tmp_path, {"servicebus": {"main": {"connection_string": text}}}), "servicebus.main"
    )
    assert list(found) == ["dns"]
    assert "no-such-host.invalid" in found["dns"].seen


async def test_a_broker_that_refuses_for_now_is_said(tmp_path: Path) -> None:
    async with servers() as rig:
        rig.faults.add(Fault(on="servicebus.management", action=FaultAction.BUSY))
        found = await findings_of(rig.settings(tmp_path), "servicebus.main")
    assert found["entity orders"].verdict is Verdict.FAIL
    assert "server-busy" in found["entity orders"].seen


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_something_that_is_no_broker_is_said(tmp_path: Path, answer: bytes) -> None:
    async def handle(stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()
                await stream.send(answer)

    async with serving(handle) as port:
        wanted = settings(tmp_path, {"servicebus": {"main": {"connection_string": connection_string(port)}}})
        found = await findings_of(wanted, "servicebus.main")
    assert found["amqp"].verdict is Verdict.FAIL


async def test_a_certificate_that_nobody_vouches_for_is_said(tmp_path: Path) -> None:
    async with tls_port(tmp_path, days=90) as port:
        found = await findings_of(settings(tmp_path, tls_section(port)), "servicebus.main")
    assert found["tls"].verdict is Verdict.FAIL
    assert "not trusted" in found["tls"].seen
    assert "ca_file" in str(found["tls"].remedy)
    assert "amqp" not in found


@pytest.mark.parametrize(("days", "verdict"), [(90, Verdict.OK), (3, Verdict.WARN)])
async def test_a_certificate_that_ends_soon_is_a_warning(tmp_path: Path, days: int, verdict: Verdict) -> None:
    async with tls_port(tmp_path, days=days) as port:
        found = await findings_of(
            settings(tmp_path, tls_section(port, ca_file=str(tmp_path / "cert.pem"))), "servicebus.main"
        )
    assert found["tls"].verdict is verdict
    assert "good for" in found["tls"].seen
    assert found["amqp"].verdict is Verdict.FAIL  # it speaks TLS and nothing in it


def tls_section(port: int, **changes: str) -> dict[str, dict[str, dict[str, str]]]:
    text = f"Endpoint=sb://localhost:{port};SharedAccessKeyName=n;SharedAccessKey=a2V5"
    return {"servicebus": {"main": {"connection_string": text} | changes}}


@asynccontextmanager
async def serving(handle: object, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    served = listener if context is None else TLSListener(listener, context, standard_compatible=False)
    async with served, anyio.create_task_group() as tasks:
        tasks.start_soon(served.serve, handle)
        yield port
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def tls_port(folder: Path, *, days: int) -> AsyncIterator[int]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")

    async def handle(stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await stream.receive()

    async with serving(handle, context) as port:
        yield port
