"""The entities that one connection is used for: where each is, where requests for it go, and who uses it still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from renewer.errors import TransientError
from renewer.targets.servicebus.management import Management

if TYPE_CHECKING:
    from renewer.errors import RemoteError
    from renewer.targets.servicebus.carrier import Carrier
    from renewer.targets.servicebus.cbs import Tokens
    from renewer.targets.servicebus.options import NamespaceOptions

ENTITY_LINGER_S: Final = 60.0
"""How long the way to an entity is kept open after nobody here uses it any longer."""


class Entity:
    """One entity: the `address` of its session receivers, its management node, and how many use it here."""

    __slots__ = ("address", "idle_since", "management", "users")

    def __init__(self, address: str, management: Management, now: float) -> None:
        self.address = address
        self.management = management
        self.users = 0
        self.idle_since = now


class Entities:
    """Those of one connection, by name."""

    def __init__(self, carrier: Carrier, tokens: Tokens, options: NamespaceOptions) -> None:
        self._carrier = carrier
        self._tokens = tokens
        self._options = options
        self._entities: dict[str, Entity] = {}
        self._over: RemoteError | None = None

    def of(self, name: str) -> Entity:
        """The entity; the way to it is made if there is none. Once all is closed, what it is asked fails."""
        known = self._entities.get(name)
        if known is not None:
            return known
        carrier = self._carrier
        management = Management(carrier, name, self._tokens, window=self._options.request_window)
        entity = Entity(self._options.source_address(name), management, carrier.now())
        if self._over is None:
            self._entities[name] = entity
        else:
            management.close(self._over)
        return entity

    @property
    def pending(self) -> int:
        """Requests that wait to be sent or answered."""
        return sum(entity.management.pending for entity in self._entities.values())

    def leave(self, name: str) -> None:
        """One fewer uses it."""
        entity = self._entities.get(name)
        if entity is not None:
            entity.users -= 1
            entity.idle_since = self._carrier.now()

    def pump(self) -> None:
        """Do what time brings: windows are looked after, and what nobody has used for a while is let go."""
        now = self._carrier.now()
        for name, entity in list(self._entities.items()):
            entity.management.pump()
            if entity.users <= 0 and not entity.management.pending and now - entity.idle_since > ENTITY_LINGER_S:
                del self._entities[name]
                entity.management.close(TransientError("the entity is not in use", kind="network"))
                self._tokens.forget(name)

    def close(self, error: RemoteError) -> None:
        """The connection is over: whatever is under way, or asked for later, fails with `error`."""
        self._over = error
        for entity in self._entities.values():
            entity.management.close(error)
        self._entities.clear()
