"""What the methods of the client for async code share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from renewer.client import plans
from renewer.client.async_driver import AsyncDriver
from renewer.client.models import Page
from renewer.client.wire import Call

_T = TypeVar("_T")


class AsyncBase:
    """The way to the daemon."""

    _driver: AsyncDriver
    _terms: plans.Terms

    async def _call(self, call: Call[_T]) -> _T:
        return await self._driver.run(plans.exchange(call, self._terms))

    async def _all(self, page_after: Callable[[str | None], Call[Page[_T]]]) -> AsyncIterator[_T]:
        after: str | None = None
        while True:
            page = await self._call(page_after(after))
            for item in page.items:
                yield item
            if (after := page.next) is None:
                return
