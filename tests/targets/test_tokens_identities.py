"""Identities as azure-identity opens them, and how long their tokens are taken to last."""

import base64
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from azure.identity import aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from renewer.errors import TransientError, UsageError
from renewer.targets.identity import CREDENTIAL_NAMES, Identity, signed_lifetime_s, token_claims
from renewer.targets.tokens import AzureIdentityToken

pytestmark = pytest.mark.anyio

SCOPE = "https://servicebus.azure.net//.default"
WHO = {"tenant_id": "11111111-2222-3333-4444-555555555555", "client_id": "abc"}


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Clock:
    """Both clocks, which the test moves."""

    def __init__(self):
        self.mono = 1000.0
        self.wall = datetime(2026, 3, 1, tzinfo=UTC)

    def now(self):
        return self.mono

    def utc_now(self):
        return self.wall

    def pass_s(self, span_s):
        self.mono += span_s
        self.wall += timedelta(seconds=span_s)


@dataclass
class Given:
    token: str
    expires_on: int


class Source:
    """A credential whose every token lasts `lasts_s`, by a clock that is `ahead_s` of ours."""

    def __init__(self, clock, lasts_s=3600, *, ahead_s=0, is_jwt=False):
        self.clock, self.lasts_s, self.ahead_s, self.is_jwt = clock, lasts_s, ahead_s, is_jwt
        self.asked = 0
        self.is_down = False

    @asynccontextmanager
    async def open(self):
        yield self

    async def get_token(self, scope):
        self.asked += 1
        if self.is_down:
            raise RuntimeError("down")
        issued_at = int(self.clock.utc_now().timestamp()) + self.ahead_s
        ends_at = issued_at + self.lasts_s
        return Given(jwt(issued_at, ends_at) if self.is_jwt else f"token-{self.asked}", ends_at)


def jwt(issued_at, expires_at, **more):
    claims = json.dumps({"iat": issued_at, "exp": expires_at} | more).encode()
    return f"eyJhbGciOiJub25lIn0.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2ln"


# Kinds ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "kind"),
    [
        (Identity(), aio.DefaultAzureCredential),
        (Identity("default", **WHO), aio.DefaultAzureCredential),
        (Identity("environment"), aio.EnvironmentCredential),
        (Identity("managed-identity"), aio.ManagedIdentityCredential),
        (Identity("managed-identity", client_id="abc"), aio.ManagedIdentityCredential),
        (Identity("azure-cli", tenant_id="t"), aio.AzureCliCredential),
        (Identity("client-secret", client_secret=lambda: "s3cret", **WHO), aio.ClientSecretCredential),
    ],
)
async def test_each_kind_is_opened_by_azure_identity(identity, kind):
    async with identity.opener()() as credential:
        assert type(credential) is kind


async def test_a_workload_identity_is_opened_with_the_file_that_kubernetes_names(tmp_path, monkeypatch):
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    async with Identity("workload-identity", **WHO).opener()() as credential:
        assert type(credential) is aio.WorkloadIdentityCredential


async def test_a_certificate_is_read_each_time(tmp_path):
    file = tmp_path / "app.pem"
    identity = Identity("certificate", certificate_file=str(file), **WHO)
    source = AzureIdentityToken(SCOPE, identity, clock=Clock())
    with pytest.raises(TransientError, match="No such file"):
        await source.token()
    file.write_bytes(pem())
    async with identity.opener()() as credential:
        assert type(credential) is aio.CertificateCredential


async def test_a_secret_that_cannot_be_read_is_an_error_like_any_other():
    def read():
        raise OSError("the secret's file has gone")

    source = AzureIdentityToken(SCOPE, Identity("client-secret", client_secret=read, **WHO), clock=Clock())
    with pytest.raises(TransientError, match="file has gone") as caught:
        await source.token()
    assert caught.value.kind == "unauthorized"


@pytest.mark.parametrize(
    ("kind", "given", "missing"),
    [
        ("client-secret", {}, "tenant_id, client_id, client_secret"),
        ("client-secret", WHO, "client_secret"),
        ("certificate", WHO, "certificate_file"),
    ],
)
def test_an_application_that_is_not_described_is_refused(kind, given, missing):
    with pytest.raises(UsageError, match=f"needs {missing}"):
        Identity(kind, **given)


def test_every_name_is_one_of_azure_identity():
    for name in CREDENTIAL_NAMES:
        more = WHO | {"client_secret": lambda: "s", "certificate_file": "x.pem"}
        assert callable(Identity(name, **more).opener())


def test_a_secret_is_not_shown():
    assert "s3cret" not in repr(Identity("client-secret", client_secret=lambda: "s3cret", **WHO))


# How long -------------------------------------------------------------------------------------------------------------


async def test_a_token_of_a_minute_lasts_a_minute():
    clock = Clock()
    given = Source(clock, 60)
    source = AzureIdentityToken(SCOPE, given.open, clock=clock)
    assert (await source.timed()).ends_at == clock.now() + 60
    clock.pass_s(29)
    assert await source.token() == "token-1"
    clock.pass_s(2)
    assert await source.token() == "token-2"


@pytest.mark.parametrize("ahead_s", [-7200, -3590, 7200])
@pytest.mark.parametrize("is_jwt", [True, False])
async def test_a_token_is_never_taken_to_last_longer_than_it_was_made_for(ahead_s, is_jwt):
    clock = Clock()
    source = AzureIdentityToken(SCOPE, Source(clock, ahead_s=ahead_s, is_jwt=is_jwt).open, clock=clock)
    lasts_s = (await source.timed()).ends_at - clock.now()
    if ahead_s < 0:
        # Our clock is ahead of the issuer's: what remains by it is nothing, so that a few minutes are taken.
        assert lasts_s == 300
    else:
        assert lasts_s == (3600 if is_jwt else 3600 + ahead_s)


async def test_a_later_token_is_fetched_once_for_all_who_ask_for_it():
    clock = Clock()
    given = Source(clock)
    source = AzureIdentityToken(SCOPE, given.open, clock=clock)
    first = await source.timed()
    clock.pass_s(1200)
    assert (await source.timed()).text == "token-1"
    assert (await source.timed(beyond=first.ends_at)).text == "token-2"
    clock.pass_s(1200)
    assert (await source.timed(beyond=first.ends_at)).text == "token-2"
    assert given.asked == 2


async def test_a_later_token_that_cannot_be_had_is_an_error_though_there_is_one():
    clock = Clock()
    given = Source(clock)
    source = AzureIdentityToken(SCOPE, given.open, clock=clock)
    first = await source.timed()
    clock.pass_s(1200)
    given.is_down = True
    with pytest.raises(TransientError, match="down"):
        await source.timed(beyond=first.ends_at)
    assert "down" in source.failure
    assert await source.token() == "token-1"
    clock.pass_s(6)
    given.is_down = False
    await source.timed(beyond=first.ends_at)
    assert source.failure is None


def test_what_a_token_says_of_itself_is_read_without_trusting_it():
    assert signed_lifetime_s(jwt(1000, 4600)) == 3600
    assert token_claims(jwt(1, 2, appid="x")) == {"iat": 1, "exp": 2, "appid": "x"}
    for odd in (jwt(5, 5), jwt(True, 7), jwt("1", 2), jwt(1, 2.5), "a.b", "a.b.c", "a.W10.c", "opaque", ""):
        assert signed_lifetime_s(odd) is None
    assert token_claims("a." + "[" * 60_000 + ".c") is None


def test_a_timed_token_does_not_show_its_text():
    from renewer.targets.tokens import TimedToken

    assert "eyJ" not in repr(TimedToken("eyJsecret", 0.0, 1.0, 2))


def pem():
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "renewer")])
    begins = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 7, begins, begins + timedelta(days=900))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM) + private
