"""Management requests for one entity on one connection.

When nothing comes back over the links to the management node, a second pair takes over what is asked from then on: a
broker may have lost one end of them without a word. The first is listened to until nobody waits for it any longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from renewer.core.states import LossReason
from renewer.errors import LeaseLostError, RemoteError, TransientError
from renewer.targets.servicebus.envelope import Reply, Template
from renewer.targets.servicebus.options import management_address
from renewer.targets.servicebus.requests import RequestPair
from renewer.targets.servicebus.verdicts import renewal_refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from renewer.targets.servicebus.carrier import Carrier
    from renewer.targets.servicebus.cbs import Tokens
    from renewer.targets.servicebus.request import Request

_MAX_RETIRED: Final = 2


class Management:
    """The way to `<entity>/$management`."""

    def __init__(self, carrier: Carrier, entity: str, tokens: Tokens, *, window: int) -> None:
        self._entity = entity
        self._tokens = tokens
        self._carrier = carrier
        self._window = window
        self._registry: dict[bytes, Request] = {}
        self._retired: list[RequestPair] = []
        self._pair = self._new_pair()

    @property
    def pending(self) -> int:
        """Requests that wait to be sent or answered."""
        return sum(pair.pending for pair in (self._pair, *self._retired))

    @property
    def max_request_size(self) -> int | None:
        """How many bytes a request may have, as far as the broker has said; None if it has not."""
        return self._pair.max_request_size

    async def request(self, ask: Template) -> Reply:
        """Send a request, with a new token once if the old one is refused. The reply, which is a success.

        LeaseLostError when the broker says that the lock is gone, TransientError for everything else but success.
        """
        return await self.accepted(await self._pair.request(ask), ask)

    def ask(self, ask: Template, answered: Callable[[Request], None], *, before: Request | None = None) -> Request:
        """Send a request that no task waits for: see `RequestPair.ask`. Its reply is for `accepted` to judge."""
        return self._pair.ask(ask, answered, before=before)

    async def accepted(self, reply: Reply, ask: Template) -> Reply:
        """The reply to `ask`, or the one to asking again, if it is a success; the errors are those of `request`."""
        try:
            return _checked(reply)
        except LeaseLostError as error:
            if error.reason != LossReason.UNAUTHORIZED:
                raise
        await self._tokens.replace(self._entity, since=reply.sent_at)
        return _checked(await self._pair.request(ask))

    def open_soon(self) -> None:
        """Attach the links ahead of the first request."""
        self._pair.open_soon()

    def pump(self) -> None:
        """See `RequestPair.pump`. Also replaces a pair over which nothing comes back."""
        if self._pair.is_stalled(self._carrier.now()) and len(self._retired) < _MAX_RETIRED:
            self._retired.append(self._pair)
            self._pair = self._new_pair()
            self._pair.open_soon()
        for pair in (self._pair, *self._retired):
            pair.pump()
        for pair in [pair for pair in self._retired if not pair.pending]:
            self._retired.remove(pair)
            pair.close(TransientError("the links have been replaced", kind="network"))

    def close(self, error: RemoteError) -> None:
        """No further requests; those under way fail with `error`."""
        for pair in (self._pair, *self._retired):
            pair.close(error)

    def _new_pair(self) -> RequestPair:
        return RequestPair(
            self._carrier,
            management_address(self._entity),
            window=self._window,
            prepare=self._prepare,
            registry=self._registry,
        )

    async def _prepare(self, trouble: RemoteError | None) -> None:
        if isinstance(trouble, TransientError) and trouble.kind == "unauthorized":
            await self._tokens.replace(self._entity, since=self._carrier.now())
        else:
            await self._tokens.ensure(self._entity)


def _checked(reply: Reply) -> Reply:
    if reply.is_success:
        return reply
    if reply.status is None:
        raise TransientError("a reply without status", kind="garbage")
    raise renewal_refused(reply.status, reply.condition, reply.description)
