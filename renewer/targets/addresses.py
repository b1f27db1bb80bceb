"""Which network addresses a name may lead to.

A host is allowed by its name, but whoever answers for that name in DNS chooses its address. So what a name resolves to
is judged in the moment before it is connected to: nobody reaches by way of a name what only this machine, its host or
its network can reach. Addresses that stand in URLs themselves are not looked up; those must be listed one by one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from renewer.targets.origins import Origin

if TYPE_CHECKING:
    from renewer.targets.resolver import GuardedResolver

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Judge = Callable[[str, int, Address | None], str | None]
"""Says what speaks against connecting to an address by way of this host name and port; None: nothing does.

The name comes in lower case without a final dot. The address is None if it cannot be read.
"""

_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "168.63.129.16",  # Azure: the host's own services
            "100.100.100.200",  # Alibaba Cloud
            "192.0.0.192",  # Oracle Cloud
            "fd00:ec2::254",  # AWS
            "fd20:ce::254",  # Google Cloud
        ),
    )
)
"""Metadata services outside the link-local ranges, where all the others are."""

_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Where the host names of one account may lead.

    A host that is `listed`, with its port, may be private; one that only a pattern allows may be private within
    `networks`. No name leads to this machine, but those that mean it; nor to its link, a metadata service, or many.
    """

    section: str
    listed: frozenset[tuple[str, int]]
    networks: tuple[Network, ...] = ()

    def problem(self, host: str, port: int, address: Address | None) -> str | None:
        """What speaks against `address`, and what to do about it: a `Judge`."""
        if means_this_machine(host):
            return None if address is not None and address.is_loopback else f"{host} does not lead to this machine"
        if is_local(address):
            return (
                f"{host} leads to {address or 'what is no address'}, which no name may lead to; "
                f"if that is meant, list the address itself in allow_hosts of [{self.section}]"
            )
        if address is None or not is_private(address) or (host, port) in self.listed:
            return None
        if any(address in network for network in self.networks):
            return None
        return (
            f"{host} leads to {address}, a private address; list the host itself, or the network such as "
            f"{_network_around(address)}, in allow_hosts of [{self.section}]"
        )


def guarded_resolver(judge: Judge) -> GuardedResolver:
    """What looks names up, and leaves out what `judge` objects to. To be made on the event loop."""
    # With aiohttp, which is loaded when the first request is sent.
    from renewer.targets.resolver import GuardedResolver

    return GuardedResolver(judge=judge)


def read_address(text: str) -> Address | None:
    """The address that packets to `text` end up at: an IPv4 address inside an IPv6 one is taken out of it."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and (address in _NAT64 or (address in _IPV4_COMPATIBLE and int(address) > 1)):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address if inner is None else inner


def means_this_machine(host: str) -> bool:
    """Whether a host can only mean this machine."""
    return Origin("http", host, 80).is_loopback


def is_local(address: Address | None) -> bool:
    """Whether only this machine, its host or its link answers there, or it is no single machine's address at all."""
    return (
        address is None
        or address.is_link_local
        or address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or address in _METADATA
        or address in _THIS_NETWORK
    )


def is_private(address: Address) -> bool:
    """Whether the address means something else in every network (RFC 1918, 4193, 6598 and all others not global)."""
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    return site_local or not address.is_global or address.is_reserved


def _network_around(address: Address) -> str:
    prefix = 24 if isinstance(address, ipaddress.IPv4Address) else 64
    return str(ipaddress.ip_network((address, prefix), strict=False))
