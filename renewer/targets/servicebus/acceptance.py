"""Sessions that are being asked for: over which connection, when it is their turn, and how many the broker allows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio

from renewer.errors import TransientError
from renewer.targets.servicebus.ceilings import Ceiling, is_too_many
from renewer.targets.servicebus.channels import NoRoomError
from renewer.targets.servicebus.connection import NEXT_SESSION_GRACE_S
from renewer.targets.servicebus.sessionlink import Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.core.model import LeaseSpec
    from renewer.ports import Clock
    from renewer.targets.servicebus.acquisition import SessionAcquisition
    from renewer.targets.servicebus.connection import BrokerConnection
    from renewer.targets.servicebus.pool import Pool
    from renewer.targets.servicebus.sessionlink import SessionLink

ATTACHES_AT_ONCE: Final = 128
"""Sessions asked for by name at a time."""

ATTACH_PATIENCE_S: Final = 2.0
"""How long an acquisition waits for its turn; then it goes ahead: those before it may be waiting for lost answers."""

MOST_TRIED: Final = 5
"""So many connections that are full, one after the other, are tried for one session."""


class Acceptance:
    """Asks for sessions. `held_of` counts those that are held, by entity; a link counts in its connection's load.

    The next available session is waited for at the broker, `next_session_timeout_s` at most.
    """

    def __init__(self, pool: Pool, clock: Clock, held_of: Mapping[str, int], *, next_session_timeout_s: float) -> None:
        self._pool = pool
        self._clock = clock
        self._held_of = held_of
        self._next_session_timeout_s = next_session_timeout_s
        self._asked_of: Counter[str] = Counter()
        self._ceilings: dict[str, Ceiling] = {}
        self._turns = anyio.CapacityLimiter(ATTACHES_AT_ONCE)

    @property
    def trouble(self) -> str | None:
        """Why no more sessions can be had of an entity; None as a rule. For people."""
        for entity, ceiling in self._ceilings.items():
            if ceiling.is_lowered:
                held = self._held_of.get(entity, 0)
                return f"the broker allows no more than {held} sessions of {entity} now: {ceiling.why}"
        return None

    def begin(self, entity: str, session_id: str, acquisition: SessionAcquisition) -> bool:
        """Have it asked for, if nothing is to be waited for before; the rest is done by `end`, once."""
        ceiling = self._ceilings.get(entity)
        if ceiling is not None and ceiling.is_lowered:
            return False
        # Before anything is asked: that a turn is free does not mean that it is ours.
        try:
            self._turns.acquire_on_behalf_of_nowait(acquisition)
        except anyio.WouldBlock:
            return False
        connection, link = None, None
        try:
            connection = self._pool.reserve_now()
            if connection is not None:
                link = connection.ask_for_session(entity, session_id, acquisition.on_settled)
        finally:
            if link is None:
                self._turns.release_on_behalf_of(acquisition)
                if connection is not None:
                    self._pool.give_back(connection)
        if link is None:
            return False
        acquisition.link = link
        self._asked_of[entity] += 1
        return True

    def end(self, acquisition: SessionAcquisition, entity: str) -> None:
        """It is answered, or not wanted any longer."""
        self._turns.release_on_behalf_of(acquisition)
        self._asked_of[entity] -= 1
        link = acquisition.link
        if link is not None and link.stage is Stage.HELD:
            link.carrier.note_granted()

    async def accept(self, spec: LeaseSpec, begun: SessionLink | None = None) -> SessionLink:
        """Accept the session, or the next available one. The errors are those of `verdicts.attach_refused`.

        With `begun` it was asked for already, and that was refused.
        """
        entity = spec.entity.strip("/")
        ceiling = self._ceilings.get(entity)
        self._check(entity)
        self._asked_of[entity] += 1
        try:
            link = await self._accept_where_it_fits(spec, begun)
        except TransientError as error:
            if _is_one_too_many(error):
                ceiling = self._ceilings.setdefault(entity, Ceiling(self._clock))
                ceiling.refused(self._held_of.get(entity, 0), str(error))
            raise
        finally:
            self._asked_of[entity] -= 1
        link.carrier.note_granted()
        if ceiling is not None:
            ceiling.granted(self._held_of.get(entity, 0) + 1)
        return link

    def _check(self, entity: str, *, already_asked: int = 0) -> None:
        """TransientError if the broker has refused more sessions of the entity than are held and asked for."""
        ceiling = self._ceilings.get(entity)
        if ceiling is not None:
            held = self._held_of.get(entity, 0)
            ceiling.must_hold(held)
            ceiling.check(held + self._asked_of[entity] - already_asked, f"sessions of {entity}")

    async def _accept_where_it_fits(self, spec: LeaseSpec, begun: SessionLink | None) -> SessionLink:
        full = FullConnections()
        try:
            while True:
                connection = await self._another(full) if begun is None else self._the_same(begun)
                try:
                    link = await self._accept(connection, spec, begun)
                except NoRoomError:
                    # It turned out smaller than it looked, and is passed over from now on.
                    pass
                except TransientError as error:
                    if not _is_one_too_many(error) or not full.may_be(connection, str(error)):
                        raise
                else:
                    full.believe()
                    return link
                begun = None
        finally:
            full.forget()

    async def _another(self, full: FullConnections) -> BrokerConnection:
        try:
            return await self._pool.reserve()
        except TransientError:
            # There is none to prove the contrary.
            full.believe()
            raise

    def _the_same(self, begun: SessionLink) -> BrokerConnection:
        begun.carrier.load += 1
        return begun.carrier

    async def _accept(self, connection: BrokerConnection, spec: LeaseSpec, begun: SessionLink | None) -> SessionLink:
        """Accept it on this connection, which is given back if that fails."""
        try:
            if spec.session_id is None:
                # May wait at the broker for a minute: takes no turn from others.
                return await connection.accept_session(
                    spec.entity.strip("/"), None, server_timeout_s=self._patience_s()
                )
            return await self._accept_in_turn(connection, spec, begun)
        except BaseException:
            self._pool.give_back(connection)
            raise

    async def _accept_in_turn(
        self, connection: BrokerConnection, spec: LeaseSpec, begun: SessionLink | None
    ) -> SessionLink:
        entity = spec.entity.strip("/")
        turn, has_turn = object(), False
        with anyio.move_on_after(ATTACH_PATIENCE_S):
            await self._turns.acquire_on_behalf_of(turn)
            has_turn = True
        try:
            if begun is None:
                # What those before us have heard may be the answer for us as well.
                self._check(entity, already_asked=1)
                if connection.is_overfull:
                    raise NoRoomError
            return await connection.accept_session(entity, spec.session_id, server_timeout_s=0.0, begun=begun)
        finally:
            if has_turn:
                self._turns.release_on_behalf_of(turn)

    def _patience_s(self) -> float:
        """How long the broker may wait for a session to become free: what is left to our caller, less the way back."""
        left_s = anyio.current_effective_deadline() - anyio.current_time() - NEXT_SESSION_GRACE_S
        return max(1.0, min(self._next_session_timeout_s, left_s))


def _is_one_too_many(error: TransientError) -> bool:
    """Whether the session was refused, and not the connection, because there are as many as the broker allows."""
    return error.kind == "busy" and is_too_many(error)


class FullConnections:
    """Connections that have refused one and the same session as one too many, while it is not had elsewhere.

    Either each of them has as many as it may have, or the entity has. The entity is believed to have when one refuses
    that carries none, or clearly fewer than another that did, or when so many refuse that no more are worth trying.
    Until it is known they are passed over.
    """

    def __init__(self) -> None:
        self._carried: dict[BrokerConnection, int] = {}
        self._why = ""

    def may_be(self, connection: BrokerConnection, why: str) -> bool:
        """Whether it may be this connection, which has refused, so that it is worth trying another one."""
        if not connection.is_open:
            return True  # Nobody knows by now what it carried.
        carried = connection.channels.carried
        self._carried[connection] = connection.full_at = carried
        self._why = why
        return 2 * min(self._carried.values()) > max(self._carried.values()) and len(self._carried) <= MOST_TRIED

    def believe(self) -> None:
        """It was the connections: that is known from now on, also of those to come."""
        for connection, carried in self._carried.items():
            connection.capacity.sessions.refused(carried, self._why)

    def forget(self) -> None:
        """All is known that this session could tell."""
        for connection in self._carried:
            connection.full_at = None
