"""An asyncio event loop in virtual time, and clocks that follow whichever event loop runs."""

from __future__ import annotations

import asyncio
import selectors
from datetime import UTC, datetime, timedelta

import anyio
import trio.lowlevel
import trio.testing


class _VirtualSelector(selectors.DefaultSelector):
    """Never waits: where the loop would sleep, its clock is moved on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("every task waits, and nothing will ever happen")
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in virtual time."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def jump(self, span_s: float) -> None:
        """Time passes, and nothing is done meanwhile."""
        self._virtual.now += span_s


def virtual(backend: str) -> tuple[str, dict[str, object]]:
    """What anyio is to be told to run a test in virtual time, on asyncio or trio."""
    if backend == "trio":
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": VirtualLoop}


def stall(span_s: float) -> None:
    """Hold up the event loop, whichever it is, for so long."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(span_s)
    else:
        assert isinstance(loop, VirtualLoop)
        loop.jump(span_s)


class VirtualClock:
    """Both clocks, moved by the event loop's virtual time; the wall clock can be set apart."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> float:
        return anyio.current_time()

    def utc_now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=anyio.current_time() % 1e9) + self.offset
