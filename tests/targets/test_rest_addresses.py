"""Which addresses a name may lead to."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewer.targets.addresses import AddressRules, is_local, is_private, read_address
from renewer.targets.resolver import GuardedResolver
from renewer.targets.rest import AccountOptions

RULES = AccountOptions(
    "azure.main",
    "https://api.example.com",
    allow_hosts=("internal.example.com:8443", "*.pods.example.com", "10.0.0.0/8", "fd00::/8"),
).addresses

LOCAL = [
    "127.0.0.1",
    "127.255.0.9",
    "::1",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "169.254.169.254",
    "169.254.1.1",
    "fe80::1",
    "fe80::1%eth0",
    "224.0.0.1",
    "ff02::1",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "64:ff9b::169.254.169.254",
    "2002:a9fe:a9fe::1",
    "",
    "nonsense",
]
PRIVATE = [
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "fc00::1",
    "fd12::1",
    "fec0::1",
    "198.18.0.1",
    "240.0.0.1",
]
PUBLIC = ["20.42.0.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]


def allowed(host: str, address: str, port: int = 443, rules: AddressRules = RULES) -> bool:
    return rules.problem(host, port, read_address(address)) is None


@pytest.mark.parametrize("address", LOCAL)
@pytest.mark.parametrize("host", ["api.example.com", "a.pods.example.com"])
def test_no_name_leads_to_this_machine_its_link_or_metadata(host: str, address: str) -> None:
    assert not allowed(host, address)


@pytest.mark.parametrize("address", PUBLIC)
def test_every_allowed_name_leads_to_the_internet(address: str) -> None:
    assert allowed("api.example.com", address)
    assert allowed("a.pods.example.com", address)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_host_that_is_listed_itself_may_be_private(address: str) -> None:
    assert allowed("api.example.com", address)
    assert allowed("internal.example.com", address, 8443)
    other_port = allowed("internal.example.com", address, 443)
    assert other_port is allowed("a.pods.example.com", address)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_host_of_a_pattern_may_be_private_within_the_networks_listed(address: str) -> None:
    assert allowed("a.pods.example.com", address) is (address in {"10.1.2.3", "fd12::1"})


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "127.9.9.9", "::ffff:127.0.0.1"])
def test_localhost_is_this_machine(address: str) -> None:
    assert allowed("localhost", address)


@pytest.mark.parametrize("address", ["10.0.0.1", "8.8.8.8", "169.254.169.254", "nonsense"])
def test_localhost_is_nothing_else(address: str) -> None:
    assert not allowed("localhost", address)


@given(st.ip_addresses())
def test_every_address_is_judged(address: object) -> None:
    read = read_address(str(address))
    assert read is not None
    assert RULES.problem("a.pods.example.com", 443, read) is None or is_local(read) or is_private(read)


class Names:
    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET):
        return [
            {"hostname": host, "host": address, "port": port, "family": family, "proto": 0, "flags": 0}
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


@pytest.mark.anyio
async def test_of_several_addresses_those_that_fit_are_left() -> None:
    resolver = GuardedResolver(Names("169.254.169.254", "192.168.0.1", "10.0.0.1", "8.8.8.8"), judge=RULES.problem)
    found = await resolver.resolve("A.Pods.Example.Com.", 443)
    assert [result["host"] for result in found] == ["10.0.0.1", "8.8.8.8"]


@pytest.mark.anyio
async def test_if_none_fits_it_is_said_which_and_what_to_do() -> None:
    resolver = GuardedResolver(Names("192.168.0.1", "169.254.169.254"), judge=RULES.problem)
    with pytest.raises(OSError, match=r"leads to 192\.168\.0\.1, a private address; list the host itself"):
        await resolver.resolve("a.pods.example.com", 443)


@pytest.mark.anyio
async def test_a_name_without_addresses_has_none() -> None:
    assert await GuardedResolver(Names(), judge=RULES.problem).resolve("api.example.com", 443) == []
