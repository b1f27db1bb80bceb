"""Azure as a target of operations: requests out, the core's values back."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from renewer.core.model import NO_RESULT, OperationSpec, PollAnswer, Result, StillRunning
from renewer.errors import ConflictError, TransientError
from renewer.targets.azure.asides import Asides
from renewer.targets.azure.first import read_adopted, read_first
from renewer.targets.azure.members import outline
from renewer.targets.azure.polls import read_poll
from renewer.targets.azure.replies import OUTLINED, Reply
from renewer.targets.azure.results import no_result_from, read_result
from renewer.targets.azure.tickets import Ticket, dump_ticket, load_ticket, new_ticket
from renewer.targets.azure.urls import RefusedUrlError, place_of
from renewer.targets.http import STATE_BODY_MAX, Answer, BodyTooLargeError
from renewer.targets.origins import split_url
from renewer.targets.rest.cookies import Cookies, updated
from renewer.targets.rest.places import Place
from renewer.targets.rest.requests import Adopt, Submit
from renewer.targets.rest.target import RestTarget
from renewer.targets.spool import KEPT_IN_MEMORY, ArrivingBody

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import httpx

    from renewer.core.quotas import Asking, Quota
    from renewer.ports import Clock
    from renewer.targets.azure.members import Span
    from renewer.targets.rest.account import AccountOptions
    from renewer.targets.spool import Spool, SpooledFile
    from renewer.targets.tokens import TokenSource

DEFAULT_BASE_URL = "https://management.azure.com"
DEFAULT_SCOPE = "https://management.azure.com/.default"
"""The audience of tokens for Azure Resource Manager."""

_NEVER_SENT = frozenset({"unreachable", "no_token", "unauthorized"})


class AzureTarget(RestTarget[Ticket]):
    """Follows operations of one account on an Azure REST API; implements `renewer.ports.OperationTarget`.

    URLs that answers name are used as they are, but nothing is ever sent to a host that the account's options do not
    allow.
    """

    _ticket = Ticket

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
        super().__init__(options, tokens, clock, client, spool=spool)
        self._asides = Asides()

    def quota(self, spec: OperationSpec, asking: Asking, ticket: object) -> Quota:
        """What the next request counts against: reads, writes or deletes, which Azure counts apart."""
        request = spec.request
        if asking == "submit" and isinstance(request, Submit):
            bucket = {"GET": "reads", "DELETE": "deletes"}.get(request.method, "writes")
            url = request.url
        else:
            bucket = "reads"
            url = (ticket.result if asking == "fetch" else None) or ticket.poll if isinstance(ticket, Ticket) else ""
        try:
            return self._options.quota(bucket, split_url(url)[0])
        except ValueError:
            # A path is one on the account's own host.
            return self._options.quota(bucket)

    async def poll(self, spec: OperationSpec, ticket: object) -> PollAnswer:
        """Ask how the operation stands."""
        ticket = self._checked(ticket)
        # What comes from Location after a POST is the result, if it is large.
        may_hold_state = ticket.protocol != "location" or ticket.method in ("PUT", "PATCH", "DELETE")
        reply = await self._get(spec, ticket, self._poll_place(ticket), may_hold_state=may_hold_state)
        with closing(reply):
            answer = read_poll(reply)
        self._asides.drop(spec.id)
        if isinstance(answer, StillRunning) and answer.ticket == ticket:
            return replace(answer, ticket=None)
        return answer

    async def fetch(self, spec: OperationSpec, ticket: object) -> Result:
        """Fetch the result of an operation that succeeded."""
        ticket = self._checked(ticket)
        if ticket.result is None:
            return NO_RESULT
        try:
            place = place_of(self._options, ticket.result)
        except RefusedUrlError as error:
            return no_result_from(error)
        with closing(await self._get(spec, ticket, place, may_hold_state=False)) as reply:
            result = read_result(reply)
        self._asides.drop(spec.id)
        return result

    async def cancel(self, spec: OperationSpec, ticket: object) -> None:
        """Raises `ConflictError`: Azure has no one way to cancel."""
        raise ConflictError(
            "Azure has no general way to cancel an operation: it runs to its end there, unless its service has a "
            "request of its own for that. Forget it to stop following it"
        )

    def _read_adopted(self, request: Adopt, asked: Place, answer: Answer) -> PollAnswer:
        ticket = new_ticket(request.method, asked.url, request.terms)
        return read_adopted(self._reply(answer, request.method, asked, ticket), request.terms.protocol)

    async def _send_first(
        self, spec: OperationSpec, request: Submit, asked: Place, content: bytes | None
    ) -> PollAnswer:
        was_sent = spec.id in self._asides
        cookies = self._asides.cookies(spec.id, ())
        ticket = new_ticket(request.method, asked.url, request.terms, cookies)
        self._asides.note(spec.id, cookies)
        try:
            may_hold_state = request.method in ("PUT", "PATCH", "GET")
            reply = await self._ask(
                request.method, asked, ticket, request.headers, content, may_hold_state=may_hold_state
            )
        except TransientError as error:
            if error.kind in _NEVER_SENT and not was_sent:
                self._asides.drop(spec.id)
            raise
        self._asides.note(spec.id, reply.ticket.cookies)
        with closing(reply):
            first = read_first(reply, request.terms.protocol, repeated=was_sent)
        self._asides.drop(spec.id)
        return first

    def _dump_ticket(self, ticket: Ticket) -> dict[str, object]:
        return dump_ticket(ticket)

    def _load_ticket(self, document: object) -> Ticket:
        return load_ticket(document)

    def _poll_place(self, ticket: Ticket) -> Place:
        try:
            return place_of(self._options, ticket.poll)
        except RefusedUrlError as error:
            raise TransientError(
                f"the state is not asked for: {error}", kind="unauthorized", condition=error.code
            ) from None

    async def _get(self, spec: OperationSpec, ticket: Ticket, place: Place, *, may_hold_state: bool) -> Reply:
        ticket = _with_cookies(ticket, self._asides.cookies(spec.id, ticket.cookies))
        place = place.with_query(ticket.query)
        reply = await self._ask("GET", place, ticket, ticket.headers, None, may_hold_state=may_hold_state)
        if reply.ticket.cookies != ticket.cookies:
            # Should the answer decide nothing, these would be forgotten.
            self._asides.note(spec.id, reply.ticket.cookies)
        return reply

    async def _ask(
        self,
        method: str,
        place: Place,
        ticket: Ticket,
        headers: Mapping[str, str],
        content: bytes | None,
        *,
        may_hold_state: bool,
    ) -> Reply:
        # Any answer may be the result itself, or hold it.
        limit = max(self._options.max_result_bytes, STATE_BODY_MAX)
        try:
            answer = await self._caller.ask(
                method, place, headers=headers, content=content, max_body=limit, cookies=ticket.cookies, spooled=True
            )
        except BodyTooLargeError as error:
            return replace(self._reply(error.head, method, place, ticket), cut=True)
        reply = self._reply(answer, method, place, ticket)
        if may_hold_state and answer.file is not None and self._spool is not None:
            return await self._outlined(reply, answer.file, self._spool)
        return reply

    def _reply(self, answer: Answer, method: str, place: Place, ticket: Ticket) -> Reply:
        cookies = updated(ticket.cookies, answer, place, self._clock)
        return Reply(answer, method, place, _with_cookies(ticket, cookies), self._options, self._clock)

    async def _outlined(self, reply: Reply, path: Path, spool: Spool) -> Reply:
        """The same reply, with what its large document says of the operation."""
        try:
            found = await spool.in_thread(partial(outline, path, OUTLINED))
        except ValueError:
            return reply
        inner = None if found.result is None else await _cut_out(path, found.result, spool)
        return replace(reply, outline=found, inner_result=inner)


async def _cut_out(path: Path, span: Span, spool: Spool) -> bytes | SpooledFile:
    """A part of a file, in memory or in a file of its own."""
    at, end = span
    async with ArrivingBody(spool) as part:
        while at < end:
            piece = await spool.in_thread(partial(_read, path, at, min(KEPT_IN_MEMORY, end - at)))
            await part.add(piece)
            at += len(piece)
        return await part.finish()


def _read(path: Path, at: int, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        piece = file.read(count)
    if not piece:
        raise OSError(f"{path.name} is shorter than it was")
    return piece


def _with_cookies(ticket: Ticket, cookies: Cookies) -> Ticket:
    return ticket if cookies == ticket.cookies else replace(ticket, cookies=cookies)
