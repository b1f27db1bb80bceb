"""A broker's model for tests: literal times, tokens that can be told apart, notices by kind."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from renewer.emulator.broker import Namespace, QueueSpec
from renewer.emulator.broker.entities import Entity
from renewer.emulator.broker.messages import Incoming
from renewer.emulator.broker.sessions import Holder

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.emulator.broker.notices import Notice

N = TypeVar("N")

LOCK_S = 30.0
UTC_MS = 1_700_000_000_000

ANNA = Holder(1, "link-of-anna")
BORIS = Holder(2, "link-of-boris")


def numbered_tokens() -> Callable[[], UUID]:
    """Lock tokens 1, 2, 3 …"""
    numbers = count(1)
    return lambda: UUID(int=next(numbers))


def namespace(*specs: QueueSpec) -> Namespace:
    return Namespace(specs, lock_duration_s=LOCK_S, new_token=numbered_tokens())


def entity(spec: QueueSpec) -> tuple[Namespace, Entity]:
    """One queue, and the namespace that keeps its time."""
    space = namespace(spec)
    found = space.find(spec.name)
    assert isinstance(found, Entity)
    return space, found


def message(content: object = "m", session_id: str | None = None, *, scheduled_ms: int | None = None) -> Incoming:
    return Incoming(content, session_id, scheduled_ms)


def send(to: Entity, *contents: object, session_id: str | None = None, now: float = 0.0) -> list[int]:
    return to.send([message(content, session_id) for content in contents], now, UTC_MS)


def of_kind(notices: list[Notice], kind: type[N]) -> list[N]:
    return [notice for notice in notices if isinstance(notice, kind)]
