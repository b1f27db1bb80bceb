"""An event stream as an iterator, for async code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType

from renewer.client.async_driver import AsyncDriver, AsyncStream
from renewer.client.following import Close, Emit, Open, Receive
from renewer.client.models import Event
from renewer.client.plans import Plan


class AsyncEventStream(AsyncIterator[Event]):
    """Events, one by one; an iterator that is closed when it is no longer wanted, best with ``async with``."""

    def __init__(self, driver: AsyncDriver, plan: Plan[None]) -> None:
        self._driver = driver
        self._plan = plan
        self._stream: AsyncStream | None = None

    async def __aenter__(self) -> AsyncEventStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def __anext__(self) -> Event:
        outcome: object = None
        error: Exception | None = None
        while True:
            try:
                step = self._plan.send(outcome) if error is None else self._plan.throw(error)
            except StopIteration:
                raise StopAsyncIteration from None
            except Exception:
                # The plan has come to a bad end.
                await self._close_stream()
                raise
            if isinstance(step, Emit):
                return step.event
            outcome, error = None, None
            try:
                outcome = await self._perform(step)
            except Exception as failure:
                error = failure

    async def aclose(self) -> None:
        """End it."""
        self._plan.close()
        await self._close_stream()

    async def _perform(self, step: object) -> object:
        match step:
            case Open(request):
                await self._close_stream()
                self._stream = await self._driver.open(request)
                return self._stream.answer
            case Receive():
                return None if self._stream is None else await self._stream.read()
            case Close():
                await self._close_stream()
                return None
            case _:
                return await self._driver.perform(step)

    async def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()
