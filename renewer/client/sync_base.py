"""What the methods of the client for code that blocks share."""

from __future__ import annotations

from typing import TypeVar

from renewer.client import plans
from renewer.client.sync_driver import Driver
from renewer.client.wire import Call

_T = TypeVar("_T")


class Base:
    """The way to the daemon."""

    _driver: Driver
    _terms: plans.Terms

    def _call(self, call: Call[_T]) -> _T:
        return self._driver.run(plans.exchange(call, self._terms))
