"""What targets that follow operations over REST have in common: requests read, first answers taken, tickets kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import anyio

from renewer.core.model import Ended, OperationSpec, PollAnswer
from renewer.errors import UsageError
from renewer.ports import DEFAULT_TERMS, FollowTerms, PreparedOperation
from renewer.targets.rest.caller import Caller
from renewer.targets.rest.places import Place, locate
from renewer.targets.rest.records import dump_request, load_request
from renewer.targets.rest.requests import (
    Adopt,
    Submit,
    answer_of,
    content_of,
    is_retry_safe,
    parse_adopt,
    parse_submit,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx
    from anyio.abc import TaskStatus

    from renewer.ports import Clock
    from renewer.targets.http import Answer
    from renewer.targets.rest.account import AccountOptions
    from renewer.targets.spool import Spool
    from renewer.targets.tokens import TokenSource

_Ticket = TypeVar("_Ticket")
"""All that later requests of an operation need."""


class RestTarget(ABC, Generic[_Ticket]):
    """What implements `renewer.ports.OperationTarget` over REST, for one account.

    `OperationSpec.request` is a `Submit` or an `Adopt`, a ticket is of the target's own kind. The token goes to the
    account's host and those that its options allow, and nowhere else, whatever an answer says.
    """

    _ticket: type[_Ticket]

    def __init__(
        self,
        options: AccountOptions,
        tokens: TokenSource,
        clock: Clock,
        client: httpx.AsyncClient | None = None,
        *,
        spool: Spool | None = None,
    ) -> None:
        """`client`, if given, stays the caller's to close; `spool` is where large results go."""
        self._options = options
        self._clock = clock
        self._spool = spool
        self._caller = Caller(options, tokens, clock, client=client, spool=spool)

    @property
    def token_failures(self) -> int:
        """See `OperationTarget`."""
        return self._caller.token_failures

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then close the connections."""
        await self._caller.run(task_status=task_status)

    def prepare(
        self, how: Literal["submit", "adopt"], request: Mapping[str, object], terms: FollowTerms = DEFAULT_TERMS
    ) -> PreparedOperation:
        """Read what a caller asks for. Raises `UsageError` naming the field and what would be right."""
        if how == "submit":
            submit = parse_submit(request, self._options, terms)
            return PreparedOperation(submit, first=None, retry_safe=is_retry_safe(submit))
        adopt = parse_adopt(request, self._options, terms)
        return PreparedOperation(adopt, first=self.adopt(adopt), retry_safe=False)

    def adopt(self, request: Adopt) -> PollAnswer:
        """Read the first answer that the caller brings along; nothing is sent."""
        try:
            asked = locate(self._options, request.url)
            answer = answer_of(request)
        except UsageError as error:
            return _not_sent(error)
        return self._read_adopted(request, asked, answer)

    async def submit(self, spec: OperationSpec) -> PollAnswer:
        """Send the first request and read its answer; for an adopted operation, read the one at hand."""
        request = spec.request
        if isinstance(request, Adopt):
            return self.adopt(request)
        if not isinstance(request, Submit):
            raise TypeError(f"not a request of ours: {type(request).__name__}")
        try:
            asked = locate(self._options, request.url)
            content = content_of(request)
        except UsageError as error:
            return _not_sent(error)
        return await self._send_first(spec, request, asked, content)

    def dump_request(self, request: object) -> object:
        """The request as JSON values, for `load_request` of this or a later version."""
        return dump_request(request)

    def load_request(self, document: object) -> object:
        """What `dump_request` made. Raises `RegistryError` if it cannot be read."""
        return load_request(document)

    def dump_ticket(self, ticket: object) -> object:
        """The ticket as JSON values, for `load_ticket` of this or a later version; None for none."""
        return None if ticket is None else self._dump_ticket(self._checked(ticket))

    def load_ticket(self, document: object) -> object:
        """What `dump_ticket` made. Raises `RegistryError` if it cannot be read."""
        return None if document is None else self._load_ticket(document)

    def _checked(self, ticket: object) -> _Ticket:
        if not isinstance(ticket, self._ticket):
            raise TypeError(f"not a ticket of ours: {type(ticket).__name__}")
        return ticket

    @abstractmethod
    def _read_adopted(self, request: Adopt, asked: Place, answer: Answer) -> PollAnswer:
        """Read a first answer that somebody else got at `asked`."""

    @abstractmethod
    async def _send_first(
        self, spec: OperationSpec, request: Submit, asked: Place, content: bytes | None
    ) -> PollAnswer:
        """Send the first request to `asked`, and read its answer."""

    @abstractmethod
    def _dump_ticket(self, ticket: _Ticket) -> dict[str, object]: ...

    @abstractmethod
    def _load_ticket(self, document: object) -> _Ticket: ...


def _not_sent(error: UsageError) -> Ended:
    return Ended("rejected", error={"errorCode": "NotSent", "message": f"not sent: {error}"})
