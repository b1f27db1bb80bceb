"""What the methods of the client for async code share."""

from __future__ import annotations

from typing import TypeVar

from renewer.client import plans
from renewer.client.async_driver import AsyncDriver
from renewer.client.wire import Call

_T = TypeVar("_T")


class AsyncBase:
    """The way to the daemon."""

    _driver: AsyncDriver
    _terms: plans.Terms

    async def _call(self, call: Call[_T]) -> _T:
        return await self._driver.run(plans.exchange(call, self._terms))
