"""One request on its way: from being asked to its reply, or to what kept that from coming."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from renewer.amqp import Delivery
    from renewer.errors import RemoteError
    from renewer.targets.servicebus.envelope import Reply, Template
    from renewer.targets.servicebus.requests import RequestPair


class Request:
    """What is asked, and what came of it. Its pair `home` writes all but `is_cancelled`."""

    __slots__ = (
        "_answered",
        "asked_at",
        "counts",
        "delivery",
        "error",
        "home",
        "is_cancelled",
        "key",
        "place",
        "reply",
        "sent_at",
        "template",
    )

    def __init__(self, template: Template, home: RequestPair, now: float, answered: Callable[[Request], None]) -> None:
        self.template = template
        self.home = home
        self.asked_at = now
        self.reply: Reply | None = None
        self.error: RemoteError | None = None
        self.is_cancelled = False
        self.place = -1
        self.key = b""
        self.sent_at = 0.0
        self.counts = False
        self.delivery: Delivery | None = None
        self._answered: Callable[[Request], None] | None = answered

    @property
    def is_unanswered(self) -> bool:
        """Whether it is neither answered nor failed."""
        return self.reply is None and self.error is None

    def result(self) -> Reply:
        """The reply of a request that is answered; raises why it failed."""
        if self.error is not None:
            raise self.error
        assert self.reply is not None  # noqa: S101 - one of the two is there once it is answered
        return self.reply

    def tell(self) -> None:
        """Tell whoever asked that there is a result: once, and not after `cancel`."""
        # Not kept any longer than that: they keep the request, and a cycle is left to the garbage collector.
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(self)

    def cancel(self) -> None:
        """Nobody waits for it any longer. Does nothing if it is over."""
        self.is_cancelled = True
        self._answered = None
        self.home.forget(self)


def message_ids() -> Iterator[bytes]:
    """UUIDs as bytes, random but for the last six, which count: to draw each anew costs a system call."""
    head = uuid4().bytes[:10]
    return (head + number.to_bytes(6, "big") for number in count(1))
