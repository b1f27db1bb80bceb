"""Where callbacks may go, and where they may not."""

from __future__ import annotations

import socket

import pytest

from renewer.daemon.callbacks import CallbackOptions, Callbacks
from renewer.daemon.clock import SystemClock
from renewer.daemon.destinations import MAX_URL, Destinations, address_problem
from renewer.errors import ConfigError, UsageError
from renewer.targets.resolver import GuardedResolver


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/x",
        "http://localhost/x",
        "http://[::1]:1/x?a=b",
        "https://localhost/x",
        "http://127.9.9.9/",
    ],
)
def test_this_machine_may_always_be_called(url: str) -> None:
    Destinations([]).check(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/renewer?sig=x",
        "https://HOOKS.example.com./x",
        "https://a.b.example.org:443/",
        "https://10.1.2.3:8443/x",
        "https://[fd00::1]/x",
    ],
)
def test_listed_hosts_may_be_called(url: str) -> None:
    Destinations(["hooks.example.com", "*.example.org", "10.1.2.3:8443", "[fd00::1]"]).check(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/secret",
        "https://hooks.example.com:8443/secret",
        "https://x.hooks.example.com/secret",
        "https://example.org/secret",
        "https://evilexample.org/secret",
        "http://hooks.example.com/secret",
        "https://hooks.example.com.evil.net/secret",
        "https://hooks.example.com@evil.net/secret",
        "https://user:secret@hooks.example.com/x",
        "https://hooks.example.com\\@evil.net/secret",
        "https://hooks.example.com/secret#fragment",
        "https://hooks.example.com/secret path",
        "https://hooks.example.com/secret\r\nX: y",
        "https://169.254.169.254/secret",
        "http://2130706433/secret",
        "http://127.1/secret",
        "ftp://hooks.example.com/secret",
        "file:///secret",
        "//hooks.example.com/secret",
        "secret",
        "",
        "https://hooks.example.com/" + "secret" * MAX_URL,
    ],
)
def test_other_urls_are_refused_without_being_shown(url: str) -> None:
    with pytest.raises(UsageError, match=r"^callback: ") as refused:
        Destinations(["hooks.example.com", "*.example.org"]).check(url)
    assert "secret" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_hosts_that_are_none_are_all_named() -> None:
    with pytest.raises(ConfigError) as wrong:
        Destinations(["good.example.com", "*.com", "http://x.example.com", "a b"])
    assert [problem.value for problem in wrong.value.problems] == ["*.com", "http://x.example.com", "a b"]


@pytest.mark.anyio
async def test_registration_is_told_before_anything_is_stored() -> None:
    callbacks = Callbacks(CallbackOptions(), SystemClock())
    callbacks.check_url("http://127.0.0.1/x")
    with pytest.raises(UsageError, match=r"allow_hosts of \[callback\]"):
        callbacks.check_url("https://hooks.example.com/x")


class Names:
    """A resolver that knows what it is told."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.closed = False

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET):
        return [
            {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}
            for address in self.addresses
        ]

    async def close(self) -> None:
        self.closed = True


LOCAL = [
    "169.254.169.254",
    "169.254.1.1",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "fd00:ec2::254",
    "168.63.129.16",
    "127.0.0.1",
    "::1",
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "not an address",
]


@pytest.mark.anyio
@pytest.mark.parametrize("address", LOCAL)
async def test_a_name_does_not_lead_to_what_only_this_machine_can_reach(address: str) -> None:
    with pytest.raises(OSError, match="may not go to"):
        await GuardedResolver(Names(address), judge=address_problem).resolve("hooks.example.com", 443)


@pytest.mark.anyio
async def test_of_several_addresses_those_that_fit_are_left() -> None:
    inner = Names("127.0.0.1", "10.0.0.1", "fe80::1", "2001:db8::1")
    resolver = GuardedResolver(inner, judge=address_problem)
    found = await resolver.resolve("hooks.example.com", 443)
    assert [result["host"] for result in found] == ["10.0.0.1", "2001:db8::1"]
    await resolver.close()
    assert inner.closed


@pytest.mark.anyio
async def test_localhost_is_this_machine() -> None:
    found = await GuardedResolver(Names("10.0.0.1", "127.0.0.1"), judge=address_problem).resolve("localhost", 80)
    assert [result["host"] for result in found] == ["127.0.0.1"]
