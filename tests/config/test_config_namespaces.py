"""What a Service Bus section must say to be reached and to be let in."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from renewer.config import IdentitySettings, Settings
from renewer.config.identity import _TAKEN
from renewer.daemon.build import identity_of
from renewer.daemon.buildnamespaces import namespace_options
from renewer.targets.identity import CREDENTIAL_NAMES, Identity
from renewer.targets.servicebus import ReadySignature, SharedAccessKey

if TYPE_CHECKING:
    from pathlib import Path

    from renewer.errors import ConfigProblem
    from renewer.targets.servicebus import NamespaceOptions
    from tests.config.conftest import ConfigFile

STRING = "connection_string = '$CONNECTION'\n"
HOST = "fully_qualified_namespace = 'contoso.servicebus.windows.net'\n"
APPLICATION = "tenant_id = '11111111-2222-3333-4444-555555555555'\nclient_id = 'abc-def'\n"


def mistakes(config: ConfigFile, text: str, environ: dict[str, str] | None = None) -> list[ConfigProblem]:
    return config.problems(f"[servicebus.main]\n{text}", environ=environ)


def options(config: ConfigFile, text: str, environ: dict[str, str] | None = None) -> NamespaceOptions:
    settings: Settings = config.load(f"[servicebus.main]\n{text}", environ=environ)
    return namespace_options("main", settings.servicebus["main"], environ or {})


def write_pem(path: Path, *, with_key: bool = True, encrypted: bool = False) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "renewer")])
    begins = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), 7, begins, begins + datetime.timedelta(days=9))
    pem = built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    how: Any = serialization.BestAvailableEncryption(b"pw") if encrypted else serialization.NoEncryption()
    if with_key:
        pem += key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    path.write_bytes(pem)


# Ways in --------------------------------------------------------------------------------------------------------------


def test_a_section_is_let_in_by_a_string_or_by_an_identity_and_needs_one_of_them(config: ConfigFile) -> None:
    assert mistakes(config, STRING) == mistakes(config, HOST) == []
    (problem,) = mistakes(config, "")
    assert "fully_qualified_namespace" in problem.remedy
    (problem,) = mistakes(config, STRING + HOST)
    assert (problem.key, "one too many" in problem.remedy) == ("servicebus.main.fully_qualified_namespace", True)


def test_an_identity_is_reached_by_tls_at_the_host_itself(config: ConfigFile) -> None:
    found = options(config, HOST)
    assert (found.hostname, found.host) == ("contoso.servicebus.windows.net",) * 2
    assert (found.port, found.tls, found.emulator, found.credential) == (5671, True, False, Identity())
    found = options(
        config, HOST + "client_id = 'abc'\ncredential = ' Managed-Identity'\ntransport = 'amqp-websocket'\n"
    )
    assert (found.port, found.credential) == (443, Identity("managed-identity", client_id="abc"))


@pytest.mark.parametrize(
    "host", ["", "sb://contoso", "https://contoso", "contoso/orders", "a b", "contoso:0", "contoso:x", "u@contoso", 5]
)
def test_a_namespace_is_a_host(config: ConfigFile, host: object) -> None:
    (problem,) = mistakes(config, f"fully_qualified_namespace = {host!r}\n")
    assert "contoso.servicebus.windows.net" in problem.remedy


def test_a_broker_of_ones_own_may_have_a_port(config: ConfigFile) -> None:
    assert options(config, "fully_qualified_namespace = 'broker.example:9443'\n").port == 9443
    found = options(config, "fully_qualified_namespace = '[::1]:9443'\ntransport = 'amqp-websocket'\n")
    assert (found.host, found.port) == ("::1", 9443)


def test_a_key_or_a_ready_signature_comes_with_the_string(config: ConfigFile) -> None:
    assert options(config, STRING).credential == SharedAccessKey("local", "bG9jYWw=")
    signature = "SharedAccessSignature sr=x&sig=y&se=1900000000&skn=n"
    found = options(config, f"connection_string = 'Endpoint=sb://h;SharedAccessSignature={signature}'\n")
    assert found.credential == ReadySignature(signature, "n", 1_900_000_000)


@pytest.mark.parametrize(
    ("endpoint", "transport", "port"),
    [
        ("sb://h", "amqp", 5671),
        ("sb://h", "amqp-websocket", 443),
        ("sb://h:99", "amqp-websocket", 99),
        ("sb://h;UseDevelopmentEmulator=true", "amqp", 5672),
        ("sb://h;UseDevelopmentEmulator=true", "amqp-websocket", 80),
    ],
)
def test_the_port_follows_from_the_transport(config: ConfigFile, endpoint: str, transport: str, port: int) -> None:
    text = f"SharedAccessKeyName=n;SharedAccessKey=k;Endpoint={endpoint}"
    assert options(config, f"connection_string = '{text}'\ntransport = '{transport}'\n").port == port


def test_a_string_lets_in_by_itself(config: ConfigFile) -> None:
    found = mistakes(config, f"{STRING}credential = 'default'\n{APPLICATION}")
    assert [problem.key for problem in found] == [
        f"servicebus.main.{key}" for key in ("credential", "tenant_id", "client_id")
    ]
    assert all("fully_qualified_namespace" in problem.remedy for problem in found)


# Proxies --------------------------------------------------------------------------------------------------------------


def test_a_proxy_is_for_websockets(config: ConfigFile) -> None:
    text = f"{HOST}proxy = 'http://proxy.example:3128/'\n"
    (problem,) = mistakes(config, text)
    assert 'transport = "amqp-websocket"' in problem.remedy
    assert options(config, f"{text}transport = 'amqp-websocket'\n").proxy == "http://proxy.example:3128"


@pytest.mark.parametrize(
    "proxy",
    ["proxy:3128", "https://proxy:3128", "http://proxy", "http://u:TOPSECRET@proxy:1", "http://p:1/x", "http://[", 7],
)
def test_a_proxy_is_a_plain_url(config: ConfigFile, proxy: object) -> None:
    (problem,) = mistakes(config, f"{HOST}transport = 'amqp-websocket'\nproxy = {proxy!r}\n")
    assert "http://proxy.example:3128" in problem.remedy
    assert "TOPSECRET" not in str(problem)


# Identities -----------------------------------------------------------------------------------------------------------


def test_the_names_of_identities_are_those_that_can_be_opened() -> None:
    assert tuple(_TAKEN) == CREDENTIAL_NAMES
    assert tuple(IdentitySettings.model_fields["credential"].annotation.__args__) == CREDENTIAL_NAMES


@pytest.mark.parametrize("kind", ["client-secret", "certificate"])
def test_an_application_must_be_described_in_full(config: ConfigFile, kind: str) -> None:
    (problem,) = mistakes(config, f"{HOST}credential = '{kind}'\n")
    assert problem.key == "servicebus.main.credential"
    for word in ("tenant_id", "client_id", "client_secret_file" if kind == "client-secret" else "certificate_file"):
        assert word in problem.remedy


def test_a_client_secret_is_read_for_each_token(config: ConfigFile) -> None:
    file = config.folder / "secret"
    file.write_text("first\n")
    text = f"{HOST}{APPLICATION}credential = 'client-secret'\nclient_secret_file = 'secret'\n"
    settings = config.load(f"[servicebus.main]\n{text}")
    identity = identity_of("servicebus.main", settings.servicebus["main"], {})
    assert identity.client_secret is not None
    assert identity.client_secret() == "first"
    file.write_text("second")
    assert identity.client_secret() == "second"
    assert "second" not in repr(identity)


def test_a_client_secret_must_be_there_and_once(config: ConfigFile) -> None:
    text = f"{HOST}{APPLICATION}credential = 'client-secret'\n"
    assert mistakes(config, f"{text}client_secret = 'TOPSECRET'\n") == []
    assert mistakes(config, f"{text}client_secret_env = 'S'\n", {"S": "TOPSECRET"}) == []
    (problem,) = mistakes(config, f"{text}client_secret_env = 'S'\n")
    assert (problem.key, "that is set" in problem.remedy) == ("servicebus.main.client_secret_env", True)
    (problem,) = mistakes(config, f"{text}client_secret_file = 'missing'\n")
    assert "readable file" in problem.remedy
    (problem,) = mistakes(config, f"{text}client_secret = 'TOPSECRET'\nclient_secret_env = 'S'\n", {"S": "x"})
    assert "one too many" in problem.remedy
    assert "TOPSECRET" not in str(problem)


def test_a_certificate_comes_with_its_key_not_encrypted(config: ConfigFile) -> None:
    text = f"{HOST}{APPLICATION}credential = 'certificate'\ncertificate_file = 'app.pem'\n"
    write_pem(config.folder / "app.pem")
    assert mistakes(config, text) == []
    assert options(config, text).credential == Identity(
        "certificate",
        tenant_id="11111111-2222-3333-4444-555555555555",
        client_id="abc-def",
        certificate_file="app.pem",
    )
    for how in ({"with_key": False}, {"encrypted": True}):
        write_pem(config.folder / "app.pem", **how)
        (problem,) = mistakes(config, text)
        assert "private key, not encrypted" in problem.remedy
    (config.folder / "app.pem").unlink()
    (problem,) = mistakes(config, text)
    assert "readable file" in problem.remedy


@pytest.mark.parametrize(
    ("kind", "key", "fits"),
    [
        ("managed-identity", "tenant_id", "workload-identity"),
        ("environment", "client_id", "managed-identity"),
        ("azure-cli", "client_secret", "client-secret"),
        ("default", "certificate_file", "certificate"),
        ("workload-identity", "client_secret_env", "client-secret"),
    ],
)
def test_what_an_identity_does_not_take_is_said_with_those_that_do(
    config: ConfigFile, kind: str, key: str, fits: str
) -> None:
    (problem,) = mistakes(config, f"{HOST}credential = '{kind}'\n{key} = 'X'\n")
    assert problem.key == f"servicebus.main.{key}"
    assert fits in problem.remedy


@pytest.mark.parametrize("value", ["", "a b", "{x}", "https://login.example", "x" * 300, 5])
def test_an_id_is_an_id(config: ConfigFile, value: object) -> None:
    (problem,) = mistakes(config, f"{HOST}client_id = {value!r}\n")
    assert "must be an id" in problem.remedy
