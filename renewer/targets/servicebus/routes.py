"""Requests for entities that no session receiver ties to a connection: over any one that works.

All requests for an entity go over one connection. It counts there as one session would, so that it is not closed for
want of sessions; when it breaks or falls silent, the next request finds another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from renewer.targets.servicebus.channels import NoRoomError

if TYPE_CHECKING:
    from renewer.targets.servicebus.connection import BrokerConnection
    from renewer.targets.servicebus.envelope import Reply, Template
    from renewer.targets.servicebus.pool import Pool


class Routes:
    """The connections in use for each entity."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._routes: dict[str, _Route] = {}
        self._places: dict[str, RoutedPlace] = {}

    def enter(self, entity: str) -> None:
        """Somebody will have requests for the entity, until `leave`: its connection is kept."""
        self._routes.setdefault(entity, _Route(entity)).users += 1

    def leave(self, entity: str) -> None:
        """Whoever entered is done."""
        route = self._routes[entity]
        route.users -= 1
        if not route.users:
            del self._routes[entity]
            self._places.pop(entity, None)
            self._quit(route)

    def place(self, entity: str) -> RoutedPlace:
        """The entity as a place for requests; equal for the same one."""
        place = self._places.get(entity)
        if place is None:
            place = RoutedPlace(self, entity)
            if entity in self._routes:
                self._places[entity] = place
        return place

    async def request(self, entity: str, ask: Template) -> Reply:
        """Send a request to the entity's management node. The errors are those of `Management.request`."""
        self.enter(entity)
        try:
            route = self._routes[entity]
            while True:
                carrier = await self._carrier(route)
                try:
                    reply = await carrier.management(entity).request(ask)
                except NoRoomError:
                    # Its last handles went to session receivers: it is passed over from now on.
                    if route.carrier is carrier:
                        self._quit(route)
                    continue
                carrier.is_proved = True
                return reply
        finally:
            self.leave(entity)

    async def _carrier(self, route: _Route) -> BrokerConnection:
        while True:
            if route.carrier is not None:
                if route.carrier.is_usable:
                    return route.carrier
                self._quit(route)
            reserved = await self._pool.reserve()
            if route.carrier is None:
                route.carrier = reserved
                reserved.enter(route.entity)
            else:
                # Another request was faster.
                self._pool.give_back(reserved)

    def _quit(self, route: _Route) -> None:
        carrier, route.carrier = route.carrier, None
        if carrier is not None:
            carrier.leave(route.entity)
            self._pool.give_back(carrier)


@dataclass(frozen=True, slots=True)
class RoutedPlace:
    """An entity that is asked over whatever connection there is, on behalf of no link."""

    routes: Routes
    entity: str
    link_name: None = None

    async def request(self, ask: Template) -> Reply:
        """See `Routes.request`."""
        return await self.routes.request(self.entity, ask)


class _Route:
    __slots__ = ("carrier", "entity", "users")

    def __init__(self, entity: str) -> None:
        self.entity = entity
        self.carrier: BrokerConnection | None = None
        self.users = 0
