"""What attempts leave behind that decided nothing: that there was one, and the cookies that came with its answer.

A ticket is stored with an answer that says something. A service that answers 500 and sets a cookie may want to see the
cookie all the same, with the very next request. So this lives in memory, only until that request has been answered.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from renewer.core.model import OperationId
    from renewer.targets.rest.cookies import Cookies

MOST = 1000
"""How many operations are remembered; the oldest goes first."""


class Asides:
    """Notes between the attempts of operations."""

    def __init__(self) -> None:
        self._cookies: OrderedDict[OperationId, Cookies] = OrderedDict()

    def __contains__(self, operation: OperationId) -> bool:
        return operation in self._cookies

    def cookies(self, operation: OperationId, known: Cookies) -> Cookies:
        """The cookies to send: those of the last attempt, or else those that are `known`."""
        return self._cookies.get(operation, known)

    def note(self, operation: OperationId, cookies: Cookies) -> None:
        """An attempt of this operation decided nothing, or has begun."""
        self._cookies[operation] = cookies
        self._cookies.move_to_end(operation)
        if len(self._cookies) > MOST:
            self._cookies.popitem(last=False)

    def drop(self, operation: OperationId) -> None:
        """The attempt was answered. No error if nothing is noted."""
        self._cookies.pop(operation, None)
