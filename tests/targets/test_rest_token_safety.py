"""Over real sockets: a foreign server sees no token, no request and not even a connection, whatever answers name.

Every host name leads to this machine here, so that whatever were sent to a foreign host would arrive.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.abc
import pytest

from renewer.core.model import StillRunning, Succeeded
from renewer.errors import TransientError
from renewer.targets import resolver
from renewer.targets.fabric import FabricTarget, Ticket
from renewer.targets.http import build_client
from renewer.targets.rest import AccountOptions, Adopt, Submit
from tests.targets.fabric_rig import JOB_PATH, OPERATION_ID, STATE_PATH, CountedTokens, FixedClock, spec_of

pytestmark = pytest.mark.anyio

FOREIGN = [
    "http://127.0.0.1:{foreign}",
    "http://localhost:{foreign}",
    "http://LOCALHOST.:{foreign}",
    "http://[::ffff:127.0.0.1]:{foreign}",
    "http://2130706433:{foreign}",
    "http://0x7f000001:{foreign}",
    "http://0x7f.1:{foreign}",
    "http://0177.0.0.1:{foreign}",
    "http://127.1:{foreign}",
    "http://0:{foreign}",
    "http://evil.example:{foreign}",
    "https://evil.example:{foreign}",
    "http://127.0.0.1.evil.example:{foreign}",
    "http://127.0.0.1:{home}@127.0.0.1:{foreign}",
    "http://127.0.0.1:{home}@evil.example:{foreign}",
    "http://user:pw@127.0.0.1:{foreign}",
    "http://127.0.0.1:{home}\\@127.0.0.1:{foreign}",
    "http://127.0.0.1:{foreign}\\.127.0.0.1:{home}",
    "http://127.0.0.1%3A{home}@127.0.0.1:{foreign}",
    "http://127.0.0.1:{foreign}#@127.0.0.1:{home}",
    "http://127.0.0.1:{foreign}?@127.0.0.1:{home}",
    "http://127.0.0.1:{foreign};@127.0.0.1:{home}",
    "http://127.0.0.1:{foreign} 127.0.0.1:{home}",
    "http://127.0.0.1:{foreign}\t@127.0.0.1:{home}",
    "http://127。0。0。1:{foreign}",
    "http://\N{FULLWIDTH DIGIT ONE}27.0.0.1:{foreign}",
    "http://127%2E0%2E0%2E1:{foreign}",
    "http://ⓔvil.example:{foreign}",
    "http://xn--evl-0na.example:{foreign}",
    "//127.0.0.1:{foreign}",
    "///127.0.0.1:{foreign}",
    "/\\127.0.0.1:{foreign}",
    "\\\\127.0.0.1:{foreign}",
    "http:127.0.0.1:{foreign}",
    "http:/127.0.0.1:{foreign}",
    "http:///127.0.0.1:{foreign}",
    "http:\\\\127.0.0.1:{foreign}",
    "HTTP://127.0.0.1:{foreign}",
    "ws://127.0.0.1:{foreign}",
]
PATHS = [STATE_PATH, JOB_PATH, "/v1/identities/x"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class AllNamesAreHere:
    """A resolver for which every name is this machine; it remembers who was asked for."""

    def __init__(self, asked: list[str], address: str = "127.0.0.1") -> None:
        self._asked = asked
        self._address = address

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET):
        self._asked.append(host)
        return [{"hostname": host, "host": self._address, "port": port, "family": family, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        pass


@dataclass
class Neighbourhood:
    """The account's server, which answers as scripted, and a foreign one, which counts who comes."""

    home_port: int
    foreign_port: int
    heads: list[bytes] = field(default_factory=list)
    touched: list[bytes] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    script: list[bytes] = field(default_factory=list)

    def foreign(self, form: str) -> str:
        return form.format(home=self.home_port, foreign=self.foreign_port)

    def answers(self, *script: bytes) -> None:
        self.script.extend(script)

    async def serve_home(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            while True:
                try:
                    head = await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
                self.heads.append(head)
                await stream.send(self.script.pop(0))

    async def serve_foreign(self, stream: anyio.abc.SocketStream) -> None:
        self.touched.append(b"connection")
        async with stream:
            self.touched.append(await stream.receive())

    @asynccontextmanager
    async def target(self, **fields: object) -> AsyncIterator[FabricTarget]:
        options = AccountOptions("fabric.main", f"http://127.0.0.1:{self.home_port}/v1", **fields)
        # Not even the guard on addresses stands between the target and the foreign server.
        async with build_client(resolver=partial(AllNamesAreHere, self.names)) as client:
            yield FabricTarget(options, CountedTokens(), FixedClock(), client)

    def was_left_alone(self) -> bool:
        return self.touched == [] and self.names == []


@pytest.fixture
async def town() -> AsyncIterator[Neighbourhood]:
    with anyio.fail_after(60):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as home,
            await anyio.create_tcp_listener(local_host="127.0.0.1") as foreign,
            anyio.create_task_group() as tasks,
        ):
            ports = [listener.extra(anyio.abc.SocketAttribute.local_port) for listener in (home, foreign)]
            town = Neighbourhood(*ports)
            tasks.start_soon(home.serve, town.serve_home)
            tasks.start_soon(foreign.serve, town.serve_foreign)
            yield town
            tasks.cancel_scope.cancel()


def response(status: int, location: str | None = None, body: str = "", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if location is not None:
        lines.append(f"Location: {location}")
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("utf-8")


@pytest.mark.parametrize("form", FOREIGN)
async def test_a_location_that_names_a_foreign_server_leads_nobody_there(form: str, town: Neighbourhood) -> None:
    async with town.target() as target:
        for path in PATHS:
            location = town.foreign(form) + path
            town.answers(response(202, location))
            first = await target.submit(spec_of(Submit("POST", "/workspaces/w1/notebooks")))
            if isinstance(first, StillRunning):
                await follow_at_home(town, target, first.ticket, location)
    assert town.was_left_alone()
    assert town.script == []


async def follow_at_home(town: Neighbourhood, target: FabricTarget, ticket: object, location: str) -> None:
    town.answers(
        response(202, location),
        response(200, location, '{"status": "Running"}'),
        response(200, location, '{"status": "Succeeded"}'),
    )
    for _ in range(3):
        answer = await target.poll(spec_of(None), ticket)
        ticket = getattr(answer, "ticket", None) or ticket
    assert isinstance(answer, Succeeded)
    if answer.result is None:
        town.answers(response(200, None, "{}"))
        await target.fetch(spec_of(None), ticket)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_leads_nobody_there(status: int, town: Neighbourhood) -> None:
    ticket = Ticket(STATE_PATH, f"{STATE_PATH}/result")
    async with town.target() as target:
        for form in FOREIGN:
            town.answers(*[response(status, town.foreign(form) + "/x") for _ in range(3)])
            # What can be no URL makes the answer garbage.
            with contextlib.suppress(TransientError):
                refused = await target.submit(spec_of(Submit("POST", "/workspaces/w1/notebooks", body={"a": 1})))
                assert refused.error["errorCode"] == "Redirected"
            for ask in (target.poll, target.fetch):
                with pytest.raises(TransientError, match=r"not followed|not HTTP"):
                    await ask(spec_of(None), ticket)
    assert town.was_left_alone()
    assert len(town.heads) == 3 * len(FOREIGN)


@pytest.mark.parametrize("form", FOREIGN)
async def test_a_callers_url_of_a_foreign_server_is_not_asked(form: str, town: Neighbourhood) -> None:
    async with town.target() as target:
        for path in PATHS:
            url = town.foreign(form) + path
            for request in (Submit("POST", url), Submit("GET", url), Adopt("POST", url, 202, {"Location": url})):
                # What can be read as a path of ours is asked for at our host.
                town.script[:] = [response(404)]
                try:
                    answer = await target.submit(spec_of(request))
                except TransientError:
                    continue
                assert not isinstance(answer, Succeeded)
    assert town.was_left_alone()


@pytest.mark.parametrize("form", [FOREIGN[0], "http://localhost:{foreign}", "https://evil.example:{foreign}"])
async def test_a_stored_ticket_of_a_foreign_server_is_not_asked(form: str, town: Neighbourhood) -> None:
    ticket = Ticket(JOB_PATH, f"{STATE_PATH}/result", town.foreign(form))
    async with town.target() as target:
        for ask in (target.poll, target.fetch, target.cancel):
            with pytest.raises(TransientError, match=r"put it back into allow_hosts") as refused:
                await ask(spec_of(None), ticket)
            assert refused.value.kind == "unauthorized"
            assert "token-1" not in str(refused.value)
    assert town.was_left_alone()
    assert town.heads == []


async def test_an_operation_id_chooses_no_server(town: Neighbourhood) -> None:
    async with town.target() as target:
        for form in FOREIGN:
            operation_id = town.foreign(form).encode("ascii", "ignore").decode().replace("\t", "")
            town.answers(response(202, None, x_ms_operation_id=operation_id))
            answer = await target.submit(spec_of(Submit("POST", "/workspaces/w1/notebooks")))
            assert answer.outcome == "unpollable"
    assert town.was_left_alone()


async def test_the_own_server_is_asked_and_sees_the_token(town: Neighbourhood) -> None:
    async with town.target() as target:
        location = f"http://127.0.0.1:{town.foreign_port}{STATE_PATH}"
        town.answers(
            response(202, location, x_ms_operation_id=OPERATION_ID), response(200, None, '{"status": "Succeeded"}')
        )
        first = await target.submit(spec_of(Submit("POST", "/workspaces/w1/notebooks")))
        assert await target.poll(spec_of(None), first.ticket) == Succeeded("Succeeded")
    assert all(b"authorization: bearer token-1" in head.lower() for head in town.heads)
    assert town.was_left_alone()


# Names that are allowed, and lead where they must not.


@asynccontextmanager
async def guarded(
    monkeypatch: pytest.MonkeyPatch, base_url: str, address: str, *allow_hosts: str
) -> AsyncIterator[FabricTarget]:
    monkeypatch.setattr(resolver, "DefaultResolver", partial(AllNamesAreHere, [], address))
    options = AccountOptions("fabric.main", base_url, allow_hosts=allow_hosts)
    target = FabricTarget(options, CountedTokens(), FixedClock())
    async with anyio.create_task_group() as tasks:
        await tasks.start(target.run)
        yield target
        tasks.cancel_scope.cancel()


async def refusal(target: FabricTarget, url: str = "/workspaces") -> TransientError:
    with pytest.raises(TransientError) as refused:
        await target.submit(spec_of(Submit("POST", url)))
    return refused.value


async def test_a_name_that_leads_to_this_machine_is_not_connected_to(
    town: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://api.example.com:{town.foreign_port}"
    async with guarded(monkeypatch, url, "127.0.0.1") as target:
        error = await refusal(target)
    assert error.kind == "unreachable"
    assert f"api.example.com:{town.foreign_port}" in str(error)
    assert "list the address itself in allow_hosts of [fabric.main]" in str(error)
    assert town.was_left_alone()


async def test_localhost_that_leads_elsewhere_is_not_told_the_token_in_plain_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with guarded(monkeypatch, "http://localhost:1", "192.0.2.1") as target:
        error = await refusal(target)
    assert (error.kind, "localhost does not lead to this machine" in str(error)) == ("unreachable", True)


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        ("169.254.169.254", "list the address itself"),
        ("fe80::1%eth0", "list the address itself"),
        ("168.63.129.16", "list the address itself"),
        ("64:ff9b::a9fe:a9fe", "list the address itself"),
        ("10.1.2.3", "the network such as 10.1.2.0/24, in allow_hosts of [fabric.main]"),
        ("fd12::1", "the network such as fd12::/64, in allow_hosts of [fabric.main]"),
    ],
)
async def test_a_host_that_only_a_pattern_allows_leads_into_no_network_that_is_not_listed(
    address: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = "*.w.api.fabric.microsoft.com"
    async with guarded(monkeypatch, "https://api.example.com", address, pattern) as target:
        error = await refusal(target, "https://ws.zab.w.api.fabric.microsoft.com/v1/workspaces")
    assert error.kind == "unreachable"
    assert "ws.zab.w.api.fabric.microsoft.com" in str(error)
    assert remedy in str(error)
    assert "token-1" not in str(error)
