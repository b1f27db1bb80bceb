"""What the address of a link, or the audience of a token, names."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from renewer.errors import UsageError


class NodeKind(Enum):
    """What stands at an address."""

    CBS = auto()
    MANAGEMENT = auto()
    ENTITY = auto()
    """A queue, topic or subscription, or one of its sub-queues."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the namespace.

    `entity` is the path of what it belongs to, with the suffix of a sub-queue, `base` that path without it: what the
    patterns of keys and policies are matched with. Both are empty for `$cbs`.
    """

    kind: NodeKind
    entity: str
    base: str

    @property
    def path(self) -> str:
        """The whole path in lower case, as tokens name it."""
        return (f"{self.entity}/{_MANAGEMENT}" if self.kind is NodeKind.MANAGEMENT else self.entity).lower()


def read_node(address: str) -> Node:
    """The node at an address: a path, or a URI with one (`amqps://host:port/orders`).

    UsageError for what the gateway does not understand exactly as the broker would: what a key may use is judged by
    these names, so there must be no second way to write one.
    """
    if len(address) > LONGEST_ADDRESS:
        raise UsageError(f"an address of more than {LONGEST_ADDRESS} characters")
    path = split_address(address)[1]
    if path.lower() == _CBS:
        return Node(NodeKind.CBS, "", "")
    odd = _ODD.search(path)
    if odd is not None or not path.isprintable() or not unicodedata.is_normalized("NFKC", path):
        shown = "a character" if odd is None else repr(odd[0])
        raise UsageError(f"an address with {shown} in it that no entity has")
    parts = path.split("/")
    if "" in parts:
        raise UsageError("an address without a path, or with an empty part in it")
    if "." in parts or ".." in parts:
        raise UsageError("an address with . or .. for a part")
    kind = NodeKind.ENTITY
    if parts[-1].lower() == _MANAGEMENT:
        kind = NodeKind.MANAGEMENT
        parts.pop()
    entity = "/".join(parts)
    if parts and parts[-1].lower() == _DEAD_LETTER_QUEUE:
        parts.pop()
        if parts and parts[-1].lower() == _TRANSFER:
            parts.pop()
    unknown = next((part for part in parts if part.startswith("$")), None)
    if unknown is not None:
        raise UsageError(f"an address with {_shown(unknown)} where no such node is")
    if not parts:
        raise UsageError("an address of a node that belongs to no entity")
    return Node(kind, entity, "/".join(parts))


def split_address(address: str) -> tuple[str, str]:
    """Authority (empty where there is none) and path, without the slash that an absolute path starts with.

    UsageError for a URI of a scheme that nobody uses here.
    """
    scheme, found, rest = address.partition("://")
    if not found:
        return "", address.removeprefix("/")
    if scheme.lower() not in _SCHEMES:
        raise UsageError(f"an address with a scheme that is none of {', '.join(_SCHEMES)}")
    authority, _, path = rest.partition("/")
    return authority, path


def for_namespace(address: str, authority: str) -> str:
    """The same address in the namespace: with another host and port where it has any, else unchanged.

    azure-servicebus 7.15 (Python) writes `amqps://host:port/path`, also without TLS; @azure/service-bus 7.9 and others
    write the bare path, .NET one with a slash before it. The scheme stays: the service does not look at it.
    """
    scheme, found, rest = address.partition("://")
    if not found:
        return address
    _, slash, path = rest.partition("/")
    return f"{scheme}://{authority}{slash}{path}"


LONGEST_ADDRESS: Final = 400

_SCHEMES: Final = ("amqps", "amqp", "sb", "https", "http")
_CBS: Final = "$cbs"
_MANAGEMENT: Final = "$management"
_DEAD_LETTER_QUEUE: Final = "$deadletterqueue"
_TRANSFER: Final = "$transfer"
_ODD: Final = re.compile(r"[%\\?#*]")


def _shown(text: str) -> str:
    return repr(text[:40])
