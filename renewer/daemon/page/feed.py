"""Snapshots for many readers: each is made once, when somebody waits for it, and no more often than it may cost."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import anyio

PERIOD_S = 1.0
"""No two snapshots are begun sooner after each other."""

MOST_READERS = 16

_SHARE = 20
"""And making them takes at most this part of the time, so that a daemon with very much to show shows it less often."""


class Feed:
    """Has no task: of those who wait, one makes the next snapshot and all get it. One that is slow misses some."""

    def __init__(self, take: Callable[[], Awaitable[bytes]]) -> None:
        self._take = take
        self._turn = anyio.Lock()
        self._number = 0
        self._latest = b""
        self._due_at = -math.inf
        self._readers = 0

    @property
    def is_full(self) -> bool:
        """Whether there are as many readers as there may be."""
        return self._readers >= MOST_READERS

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """Snapshots, the first at once or nearly so."""
        self._readers += 1
        try:
            async with aclosing(self._snapshots()) as snapshots:
                yield snapshots
        finally:
            self._readers -= 1

    async def _snapshots(self) -> AsyncGenerator[bytes, None]:
        seen = 0
        while True:
            seen, snapshot = await self._after(seen)
            yield snapshot

    async def _after(self, seen: int) -> tuple[int, bytes]:
        """The snapshot after number `seen`: one that others have just been given, or else a new one."""
        async with self._turn:
            if self._number <= seen or anyio.current_time() >= self._due_at:
                await anyio.sleep_until(self._due_at)
                began_at = anyio.current_time()
                self._latest = await self._take()
                self._number += 1
                took_s = anyio.current_time() - began_at
                self._due_at = began_at + max(PERIOD_S, _SHARE * took_s)
            return self._number, self._latest
