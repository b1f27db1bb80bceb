"""An event stream as an iterator, for code that blocks."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from renewer.client.following import Close, Emit, Open, Receive
from renewer.client.models import Event
from renewer.client.plans import Plan
from renewer.client.sync_driver import Driver, Stream


class EventStream(Iterator[Event]):
    """Events, one by one; an iterator that is closed when it is no longer wanted, best with ``with``."""

    def __init__(self, driver: Driver, plan: Plan[None]) -> None:
        self._driver = driver
        self._plan = plan
        self._stream: Stream | None = None
        self._reading = False
        self._closed = False

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __next__(self) -> Event:
        self._reading = True
        try:
            return self._advance()
        except Exception:
            # The plan has come to its end, a bad one perhaps.
            self._close_stream()
            raise
        finally:
            self._reading = False
            if self._closed:
                self._close_stream()

    def close(self) -> None:
        """End it. A `next` that another thread is in ends too."""
        self._closed = True
        stream = self._stream
        if stream is not None:
            stream.interrupt()
        if not self._reading:
            self._close_stream()

    def _advance(self) -> Event:
        outcome: object = None
        error: Exception | None = None
        while not self._closed:
            step = self._plan.send(outcome) if error is None else self._plan.throw(error)
            if isinstance(step, Emit):
                return step.event
            outcome, error = None, None
            try:
                outcome = self._perform(step)
            except Exception as failure:
                error = failure
        raise StopIteration

    def _perform(self, step: object) -> object:
        match step:
            case Open(request):
                self._close_stream()
                self._stream = self._driver.open(request)
                return self._stream.answer
            case Receive():
                return None if self._stream is None else self._stream.read()
            case Close():
                self._close_stream()
                return None
            case _:
                return self._driver.perform(step)

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
