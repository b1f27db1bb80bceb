from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import anyio
import pytest

from renewer.errors import TransientError, UsageError
from renewer.targets.tokens import AzureIdentityToken
from tests.targets.fabric_rig import FixedClock

pytestmark = pytest.mark.anyio

SCOPE = "https://api.fabric.microsoft.com/.default"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@dataclass
class Given:
    token: str
    expires_on: int


@dataclass
class Identity:
    """A credential that counts; it can be told to wait or to fail."""

    clock: FixedClock
    lasts_s: int = 3600
    opened: int = 0
    closed: int = 0
    error: Exception | None = None
    gate: anyio.Event | None = None
    asked: anyio.Event = field(default_factory=anyio.Event)

    @asynccontextmanager
    async def open(self):
        self.opened += 1
        try:
            yield self
        finally:
            self.closed += 1

    async def get_token(self, *scopes):
        assert scopes == (SCOPE,)
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Given(f"token-{self.opened}", int(self.clock.utc_now().timestamp()) + self.lasts_s)


@pytest.fixture
def clock():
    return FixedClock()


@pytest.fixture
def identity(clock):
    return Identity(clock)


@pytest.fixture
def source(identity, clock):
    return AzureIdentityToken(SCOPE, identity.open, clock=clock)


async def test_a_token_is_kept_until_five_minutes_before_its_end(source, identity, clock):
    assert await source.token() == "token-1"
    clock.pass_s(3299)
    assert await source.token() == "token-1"
    clock.pass_s(2)
    assert await source.token() == "token-2"
    assert identity.closed == identity.opened == 2


async def test_a_fresh_token_is_another_one_unless_this_one_is_new(source, clock):
    assert await source.token() == "token-1"
    assert await source.token(fresh=True) == "token-1"
    clock.pass_s(31)
    assert await source.token(fresh=True) == "token-2"


async def test_callers_who_come_during_a_refresh_share_its_outcome(source, identity):
    identity.gate = anyio.Event()
    tokens = []

    async def ask():
        tokens.append(await source.token(fresh=True))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask)
            await identity.asked.wait()
            await anyio.wait_all_tasks_blocked()
            identity.gate.set()
    assert tokens == ["token-1"] * 50
    assert identity.opened == 1


async def test_callers_who_come_during_a_refresh_share_its_failure(source, identity):
    identity.gate = anyio.Event()
    identity.error = RuntimeError("no identity here")
    told = []

    async def ask():
        with pytest.raises(TransientError) as caught:
            await source.token()
        told.append(str(caught.value))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            identity.gate.set()
    assert identity.opened == 1
    assert len(told) == 20
    assert "az login" in told[0]
    assert "no identity here" in told[0]


async def test_a_caller_who_gives_up_does_not_take_the_others_along(source, identity):
    identity.gate = anyio.Event()
    tokens = []

    async def ask():
        tokens.append(await source.token())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as first:
                    first.start_soon(ask)
                    await identity.asked.wait()
                    tasks.start_soon(ask)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
            identity.gate.set()
    assert tokens == ["token-2"]


async def test_after_a_failure_the_identity_is_left_alone_for_a_while(source, identity, clock):
    identity.error = RuntimeError("down")
    for _ in range(10):
        with pytest.raises(TransientError, match="down"):
            await source.token()
    assert identity.opened == 1
    clock.pass_s(6)
    identity.error = None
    assert await source.token() == "token-2"


async def test_a_token_that_has_not_ended_serves_while_no_other_can_be_had(source, identity, clock):
    await source.token()
    identity.error = RuntimeError("down")
    clock.pass_s(3400)
    assert await source.token() == "token-1"
    clock.pass_s(300)
    with pytest.raises(TransientError, match="down"):
        await source.token()


async def test_a_wall_clock_that_is_wrong_or_set_changes_nothing(source, identity, clock):
    identity.lasts_s = -7200
    assert await source.token() == "token-1"
    clock.pass_s(200)
    clock.wall += timedelta(days=1)
    assert await source.token() == "token-2"


async def test_errors_hold_no_secrets(source, identity):
    identity.error = RuntimeError("refused https://login.example/t?code=abc client_secret=hunter2 eyJhbGciOiJub25l.x.y")
    with pytest.raises(TransientError) as caught:
        await source.token()
    for secret in ("code=abc", "hunter2", "eyJhbGci"):
        assert secret not in str(caught.value)
    assert caught.value.kind == "unauthorized"


async def test_a_token_that_cannot_be_sent_is_an_error(source, identity, monkeypatch):
    async def odd(*scopes):
        return Given("two words", 2**40)

    monkeypatch.setattr(identity, "get_token", odd)
    with pytest.raises(TransientError) as caught:
        await source.token()
    assert "two words" not in str(caught.value)


def test_an_unknown_credential_is_refused_with_the_names_that_there_are(clock):
    with pytest.raises(UsageError, match="managed-identity"):
        AzureIdentityToken(SCOPE, "magic", clock=clock)


def test_its_repr_names_scope_and_credential_only(source):
    assert repr(source) == f"AzureIdentityToken({SCOPE!r}, 'given')"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_environment_credential_of_azure_identity_says_what_it_lacks(clock, monkeypatch, anyio_backend):
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_USERNAME", "AZURE_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TransientError, match="AZURE_") as caught:
        await AzureIdentityToken(SCOPE, "environment", clock=clock).token()
    assert caught.value.kind == "unauthorized"
