"""Who is not read for now, because somebody else does not take what comes of it.

A worker waits for its broker, and for the gateway's own token. The broker is read on, for the answers to the gateway's
own requests come that way, and the windows of a worker that takes nothing are lowered instead (`windows.py`). Only when
`HARD_LIMIT` is reached all the same is it not read either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from renewer.gateway.wire import Wire

HARD_LIMIT: Final = 32 * 1024 * 1024
"""With more bytes than this waiting for one worker, nothing more is read for it."""


class Pressure:
    """What of one pair is full, and what is paused for it."""

    __slots__ = ("_is_flooded", "broker_is_full", "broker_is_paused", "worker_is_full", "worker_is_paused")

    def __init__(self) -> None:
        self.worker_is_full = False
        """The worker does not take what it is sent."""
        self.worker_is_paused = False
        """The worker is not read."""
        self.broker_is_full = False
        self.broker_is_paused = False
        self._is_flooded = False

    def regulate(self, worker: Wire, *, holds_worker: bool) -> None:
        """Read the worker, or do not: with `holds_worker` its frames would have to wait in any case."""
        pause = holds_worker or self.broker_is_full
        if pause is not self.worker_is_paused:
            self.worker_is_paused = pause
            if pause:
                worker.pause()
            else:
                worker.resume()

    def limit(self, worker: Wire, broker: Wire | None) -> bool:
        """Read the broker no more, if too much waits for the worker. Whether the worker is to be cut off; once."""
        buffered = worker.buffered
        if buffered > HARD_LIMIT and not self.broker_is_paused and broker is not None:
            self.broker_is_paused = True
            broker.pause()
        if buffered <= 2 * HARD_LIMIT or self._is_flooded:
            return False
        # The broker is not read any longer: all this answers a worker that asks and asks and takes no answer.
        self._is_flooded = True
        return True

    def worker_drained(self, broker: Wire | None) -> None:
        """The worker takes what it is sent again."""
        self.worker_is_full = False
        if self.broker_is_paused and broker is not None:
            self.broker_is_paused = False
            broker.resume()
