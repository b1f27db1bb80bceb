"""A server that was told the token over TLS is not told it in plain text, whatever it says itself."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from renewer.core.model import Succeeded
from renewer.errors import TransientError
from renewer.targets.fabric import FabricTarget, Ticket
from renewer.targets.http import build_client
from renewer.targets.rest import AccountOptions, Adopt, Submit
from tests.targets.fabric_rig import JOB_PATH, STATE_PATH, CountedTokens, FixedClock, spec_of

pytestmark = pytest.mark.anyio

_TLS_RECORD = b"\x16"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Handler(BaseHTTPRequestHandler):
    """Answers 202, then that it runs, that it is done, and with a redirect: each with a plain Location."""

    protocol_version = "HTTP/1.1"
    server: Home

    def do_POST(self) -> None:
        self._answer(307 if self.path.endswith("/redirect") else 202, "")

    def do_GET(self) -> None:
        self.server.polls += 1
        word = "Running" if self.server.polls == 1 else "Succeeded"
        is_result = self.path.endswith("/result")
        self._answer(307 if is_result else 200, "" if is_result else f'{{"status": "{word}"}}')

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}{self.server.location}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


class Home(ThreadingHTTPServer):
    """Speaks TLS, and notes every connection that begins with anything else."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.context = context
        self.location = STATE_PATH
        self.polls = 0
        self.plain = 0

    def process_request_thread(self, request: socket.socket, client_address: object) -> None:
        if request.recv(1, socket.MSG_PEEK) != _TLS_RECORD:
            self.plain += 1
            self.shutdown_request(request)
            return
        super().process_request_thread(self.context.wrap_socket(request, server_side=True), client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "home.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


@pytest.fixture
def home(certificate: Path) -> Iterator[Home]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Home(context) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", [STATE_PATH, JOB_PATH, "/v1/identities/x"])
async def test_nothing_is_sent_in_plain_text_to_a_server_of_https(path: str, home: Home, certificate: Path) -> None:
    home.location = path
    plain = f"http://127.0.0.1:{home.server_port}"
    options = AccountOptions("fabric.main", plain.replace("http", "https") + "/v1")
    async with build_client(ssl_context=ssl.create_default_context(cafile=certificate)) as client:
        target = FabricTarget(options, CountedTokens(), FixedClock(), client)
        first = await target.submit(spec_of(Submit("POST", "/workspaces/w1/notebooks")))
        running = await target.poll(spec_of(None), first.ticket)
        done = await target.poll(spec_of(None), running.ticket or first.ticket)
        assert isinstance(done, Succeeded)
        with pytest.raises(TransientError, match="not followed"):
            await target.fetch(spec_of(None), Ticket(path, f"{STATE_PATH}/result"))
        redirected = await target.submit(spec_of(Submit("POST", "/workspaces/redirect")))
        assert redirected.error["errorCode"] == "Redirected"
        for request in (Submit("POST", plain + path), Adopt("POST", plain + path, 202, {"Location": plain + path})):
            refused = await target.submit(spec_of(request))
            assert refused.error["errorCode"] == "NotSent"
        with pytest.raises(TransientError, match="allow_hosts"):
            await target.poll(spec_of(None), Ticket(path, origin=plain))
    assert home.polls == 2 + 1
    assert home.plain == 0
