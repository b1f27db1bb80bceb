"""What the addresses of links and the audiences of tokens name."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_MANAGEMENT = "/$management"
_CBS = "$cbs"


class NodeKind(Enum):
    """What stands at an address."""

    ENTITY = "entity"
    MANAGEMENT = "management"
    CBS = "cbs"


@dataclass(frozen=True, slots=True)
class Address:
    """A node: its kind and the path of the entity that it belongs to (empty for `$cbs`)."""

    kind: NodeKind
    path: str

    @property
    def folded(self) -> Address:
        """The same for every way to write it: case makes no difference."""
        return Address(self.kind, self.path.lower())


def parse_address(address: object) -> Address | None:
    """The node that a link's source or target names; None if it is no address.

    Clients give the bare path or put scheme and authority before it (`amqps://host:port/queue`).
    """
    if not isinstance(address, str):
        return None
    path = entity_path(address)
    if path.lower() == _CBS:
        return Address(NodeKind.CBS, "")
    if path.lower().endswith(_MANAGEMENT):
        return Address(NodeKind.MANAGEMENT, path[: -len(_MANAGEMENT)])
    return Address(NodeKind.ENTITY, path) if path else None


def entity_path(uri: str) -> str:
    """The path in an address or audience, without scheme, authority and slashes around it."""
    _, scheme, rest = uri.partition("://")
    if scheme:
        _, _, uri = rest.partition("/")
    return uri.strip("/")


def covers(claim: str, path: str) -> bool:
    """Whether a token for the path `claim` is good for `path`: the same, below it, or anything if it is empty."""
    claim, path = claim.lower(), path.lower()
    return not claim or path == claim or path.startswith(claim + "/")
