"""Sleeping until something happens, or until it is time."""

from __future__ import annotations

import asyncio

import anyio

_GRAIN_S = 0.0015
"""uvloop counts in milliseconds, and its timers come up to 1.4 ms early by our clock. The supervisor would look again
and again until something is really due: at 300 polls a second each cost 680 µs of CPU, and 470 with this."""


async def set_within(event: anyio.Event, span_s: float) -> bool:
    """Wait until the event is set, for so long at most; whether it was. By its timer it may be set afterwards too.

    On asyncio a timer sets the event. A cancel scope, which does the same everywhere, has to throw an exception into
    the task and to take it back, and that costs the supervisor more than all else of a wake.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        with anyio.move_on_after(span_s):
            await event.wait()
        return event.is_set()
    is_over = False

    def time_is_over() -> None:
        nonlocal is_over
        is_over = not event.is_set()
        event.set()

    if not isinstance(loop, asyncio.BaseEventLoop):
        span_s += _GRAIN_S
    timer = loop.call_later(span_s, time_is_over)
    try:
        await event.wait()
    finally:
        timer.cancel()
    return not is_over
