"""What is to be stored, and in which order: first what somebody waits for, the rest at leisure.

A key has one mark at a time, and what is stored is how it stands when its mark is taken. So marks may overtake each
other: what is stored last of a key is always its latest state.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from renewer.core.effects import TellLease, TellOperation
    from renewer.ports import Entry, EntryKind

BATCH = 500
"""How many things are stored at once: taking them down happens on the event loop, which must not be held up."""

AT_LEISURE = 100
"""How many of those that nobody waits for: that many always, so that they get stored too, and where nobody waits for
anything a quarter of them if that is more. Each takes 2.5 KiB meanwhile."""


@dataclass(slots=True)
class Mark:
    """Something that is to be stored, and what waits for it. There can be thousands of which nobody is to be told."""

    kind: EntryKind
    held_back: tuple[tuple[TellLease | TellOperation, Entry | None], ...] = ()
    callbacks: tuple[str, ...] = ()
    stored: bool = False
    _is_done: bool = False
    _done: anyio.Event | None = None

    def finish(self) -> None:
        """It is stored, or will not be."""
        self._is_done = True
        if self._done is not None:
            self._done.set()

    async def wait(self) -> None:
        """Return when that is so."""
        if self._is_done:
            return
        # Made for those few that somebody waits for: it weighs more than all the rest.
        if self._done is None:
            self._done = anyio.Event()
        await self._done.wait()


class Marks:
    """All marks that are still to be taken, by the id of what they mark."""

    def __init__(self) -> None:
        self._awaited: dict[str, Mark] = {}
        self._rest: dict[str, Mark] = {}

    def __len__(self) -> int:
        return len(self._awaited) + len(self._rest)

    def __contains__(self, key: object) -> bool:
        return key in self._rest or key in self._awaited

    def __iter__(self) -> Iterator[Mark]:
        yield from self._awaited.values()
        yield from self._rest.values()

    def get(self, key: str) -> Mark | None:
        """The mark of this key, if it has one."""
        return self._rest.get(key) or self._awaited.get(key)

    def add(self, kind: EntryKind, key: str) -> Mark:
        """The mark of this key, a new one if it has none. Nobody waits for a new one yet."""
        mark = self.get(key)
        if mark is None:
            mark = self._rest[key] = Mark(kind)
        return mark

    def hurry(self, key: str) -> None:
        """Somebody waits for it. No error if it has no mark (any longer)."""
        mark = self._rest.pop(key, None)
        if mark is not None:
            self._awaited[key] = mark

    def hurry_all(self) -> None:
        """Somebody waits for all."""
        self._awaited |= self._rest
        self._rest.clear()

    def take(self) -> dict[str, Mark]:
        """Take out what is to be stored next."""
        reserved = min(AT_LEISURE, len(self._rest))
        taken = _take(self._awaited, BATCH - reserved)
        return taken | _take(self._rest, reserved if taken else min(BATCH, max(reserved, len(self._rest) // 4)))

    def take_all(self) -> dict[str, Mark]:
        """Take out everything."""
        everything = self._awaited | self._rest
        self._awaited.clear()
        self._rest.clear()
        return everything


def _take(marks: dict[str, Mark], most: int) -> dict[str, Mark]:
    return {key: marks.pop(key) for key in list(islice(marks, most))}
