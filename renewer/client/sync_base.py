"""What the methods of the client for code that blocks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from renewer.client import plans
from renewer.client.models import Page
from renewer.client.sync_driver import Driver
from renewer.client.wire import Call

_T = TypeVar("_T")


class Base:
    """The way to the daemon."""

    _driver: Driver
    _terms: plans.Terms

    def _call(self, call: Call[_T]) -> _T:
        return self._driver.run(plans.exchange(call, self._terms))

    def _all(self, page_after: Callable[[str | None], Call[Page[_T]]]) -> Iterator[_T]:
        after: str | None = None
        while True:
            page = self._call(page_after(after))
            yield from page.items
            if (after := page.next) is None:
                return
