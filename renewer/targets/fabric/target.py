"""Fabric as a target of operations: requests out, the core's values back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from renewer.core.model import NO_RESULT, OperationSpec, PollAnswer, Result, StillRunning, Succeeded
from renewer.errors import ConflictError, UsageError
from renewer.ports import DEFAULT_TERMS, FollowTerms, PreparedOperation
from renewer.targets.fabric.answers import (
    is_poll,
    read_adopted,
    read_canceled,
    read_first,
    read_poll,
    read_result,
)
from renewer.targets.fabric.places import bucket_of, cancel_path
from renewer.targets.fabric.tickets import Ticket, dump_ticket, load_ticket
from renewer.targets.http import STATE_BODY_MAX, Answer, BodyTooLargeError
from renewer.targets.origins import split_url
from renewer.targets.rest.cookies import NO_COOKIES, Cookies, updated
from renewer.targets.rest.places import Place, locate
from renewer.targets.rest.requests import Adopt, Submit
from renewer.targets.rest.results import result_too_large
from renewer.targets.rest.target import RestTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.core.quotas import Asking, Quota


class FabricTarget(RestTarget[Ticket]):
    """Follows operations of one Fabric account; implements `renewer.ports.OperationTarget`."""

    _ticket = Ticket

    def prepare(
        self, how: Literal["submit", "adopt"], request: Mapping[str, object], terms: FollowTerms = DEFAULT_TERMS
    ) -> PreparedOperation:
        """Read what a caller asks for. Raises `UsageError` naming the field and what would be right."""
        for field, given in (("protocol", terms.protocol != "auto"), ("final_state_via", terms.final_state_via)):
            if given:
                raise UsageError(
                    f"{field}: goes with [azure.NAME] accounts; leave it out, Fabric's operations are recognised"
                )
        return super().prepare(how, request, terms)

    def quota(self, spec: OperationSpec, asking: Asking, ticket: object) -> Quota:
        """What the next request of this operation counts against: its path's bucket, of this identity on its host."""
        try:
            if isinstance(ticket, Ticket):
                is_for_result = asking == "fetch" and ticket.result_path is not None
                path = ticket.result_path or "" if is_for_result else ticket.path
                origin = None if ticket.origin is None else split_url(ticket.origin)[0]
            elif isinstance(spec.request, Submit | Adopt):
                place = locate(self._options, spec.request.url)
                path, origin = place.path, place.origin
            else:
                return self._options.quota("platform")
        except (UsageError, ValueError):
            # It will not be sent.
            return self._options.quota("platform")
        return self._options.quota(bucket_of(path), origin)

    async def poll(self, spec: OperationSpec, ticket: object) -> PollAnswer:
        """Ask how the operation stands."""
        ticket = self._checked(ticket)
        place = ticket.place(self._options, ticket.path)
        answer = await self._ask("GET", ticket, place)
        read = read_poll(answer, ticket, self._options, self._clock)
        cookies = updated(ticket.cookies, answer, place, self._clock)
        return read if cookies == ticket.cookies else _with_cookies(read, ticket, cookies)

    async def fetch(self, spec: OperationSpec, ticket: object) -> Result:
        """Fetch the result of an operation that succeeded."""
        ticket = self._checked(ticket)
        if ticket.result_path is None:
            return NO_RESULT
        place = ticket.place(self._options, ticket.result_path)
        answer, is_too_large = await self._ask_for_result("GET", place, ticket.headers, None, ticket.cookies)
        if is_too_large and answer.status == 200:
            return result_too_large(self._options.max_result_bytes, self._options.name)
        return read_result(answer, f"GET {ticket.result_path.partition('?')[0]}", self._clock)

    async def cancel(self, spec: OperationSpec, ticket: object) -> None:
        """Ask the service to cancel; polling goes on, and tells what came of it.

        `ConflictError` for all but job instances, and for those that have ended; `TransientError` as for a poll.
        """
        ticket = self._checked(ticket)
        path = cancel_path(ticket.path)
        if path is None:
            raise ConflictError(
                "Fabric has no way to cancel this operation: it runs to its end there. Forget it to stop following it"
            )
        answer = await self._ask("POST", ticket, ticket.place(self._options, path))
        read_canceled(answer, f"POST {path.partition('?')[0]}", self._clock)

    def _read_adopted(self, request: Adopt, asked: Place, answer: Answer) -> PollAnswer:
        read = read_adopted(answer, method=request.method, asked=asked, options=self._options, clock=self._clock)
        return _on_terms(read, request.terms, updated(NO_COOKIES, answer, asked, self._clock))

    async def _send_first(
        self, spec: OperationSpec, request: Submit, asked: Place, content: bytes | None
    ) -> PollAnswer:
        terms = request.terms
        if is_poll(request.method, asked):
            asked = asked.with_query(terms.poll_query)
            headers = {**terms.poll_headers, **request.headers}
            answer = await self._caller.ask(
                request.method, asked, headers=headers, content=content, max_body=STATE_BODY_MAX
            )
            is_too_large = False
        else:
            answer, is_too_large = await self._ask_for_result(request.method, asked, request.headers, content)
        read = read_first(answer, method=request.method, asked=asked, options=self._options, clock=self._clock)
        if is_too_large and isinstance(read, Succeeded):
            # It was carried out all the same.
            read = Succeeded(result=result_too_large(self._options.max_result_bytes, self._options.name))
        return _on_terms(read, terms, updated(NO_COOKIES, answer, asked, self._clock))

    def _dump_ticket(self, ticket: Ticket) -> dict[str, object]:
        return dump_ticket(ticket)

    def _load_ticket(self, document: object) -> Ticket:
        return load_ticket(document)

    async def _ask(self, method: str, ticket: Ticket, place: Place) -> Answer:
        return await self._caller.ask(
            method, place, headers=ticket.headers, max_body=STATE_BODY_MAX, cookies=ticket.cookies
        )

    async def _ask_for_result(
        self,
        method: str,
        place: Place,
        headers: Mapping[str, str],
        content: bytes | None,
        cookies: Cookies = NO_COOKIES,
    ) -> tuple[Answer, bool]:
        """An answer that may be a result, and whether it is larger than one may be: then its body may be missing."""
        limit = self._options.max_result_bytes
        most = max(limit, STATE_BODY_MAX)
        try:
            answer = await self._caller.ask(
                method, place, headers=headers, content=content, max_body=most, cookies=cookies, spooled=True
            )
        except BodyTooLargeError as error:
            return error.head, True
        return answer, answer.size > limit


def _on_terms(read: PollAnswer, terms: FollowTerms, cookies: Cookies) -> PollAnswer:
    """The answer to a first request, with a ticket that has all that later requests need."""
    if isinstance(read, StillRunning | Succeeded) and isinstance(read.ticket, Ticket):
        ticket = replace(read.ticket, query=terms.poll_query, headers=terms.poll_headers, cookies=cookies)
        return replace(read, ticket=ticket)
    return read


def _with_cookies(read: PollAnswer, ticket: Ticket, cookies: Cookies) -> PollAnswer:
    if isinstance(read, StillRunning | Succeeded):
        then = read.ticket if isinstance(read.ticket, Ticket) else ticket
        return replace(read, ticket=replace(then, cookies=cookies))
    return read
