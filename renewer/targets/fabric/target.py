"""Fabric as a target of operations: requests out, the core's values back. Holds nothing but a client and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import anyio
import httpx

from renewer import __version__
from renewer.core.model import NO_RESULT, Ended, OperationSpec, PollAnswer, Result
from renewer.errors import ConflictError, TransientError, UsageError
from renewer.ports import PreparedOperation
from renewer.targets.fabric.answers import (
    read_adopted,
    read_canceled,
    read_first,
    read_poll,
    read_result,
    transient,
)
from renewer.targets.fabric.places import Place, cancel_path, locate
from renewer.targets.fabric.records import dump_request, dump_ticket, load_request, load_ticket
from renewer.targets.fabric.requests import (
    OUR_HEADERS,
    Adopt,
    Submit,
    answer_of,
    content_of,
    parse_adopt,
    parse_submit,
)
from renewer.targets.fabric.tickets import Ticket, place_of
from renewer.targets.http import STATE_BODY_MAX, Answer, BodyTooLargeError, build_client, exchange

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import TaskStatus

    from renewer.ports import Clock
    from renewer.targets.fabric.options import FabricOptions
    from renewer.targets.tokens import TokenSource

_CLOSE_TIMEOUT_S = 2.0
_REPEATABLE = frozenset({"GET", "PUT"})
"""Methods whose second sending changes nothing and is answered like the first (RFC 9110 9.2.2, but DELETE)."""


class FabricTarget:
    """Follows operations of one Fabric account; implements `renewer.ports.OperationTarget`.

    `OperationSpec.request` is a `Submit` or an `Adopt`, a ticket is a `Ticket`. The token goes to the account's host
    and those that its options allow, and nowhere else, whatever an answer says.
    """

    def __init__(
        self,
        options: FabricOptions,
        tokens: TokenSource,
        clock: Clock,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        """`client`, if given, stays the caller's to close."""
        self._options = options
        self._tokens = tokens
        self._clock = clock
        self._owns_client = client is None
        self._client = client or build_client(max_connections=options.max_connections)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then close the connections."""
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            if self._owns_client:
                with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
                    await self._client.aclose()

    def prepare(self, how: Literal["submit", "adopt"], request: Mapping[str, object]) -> PreparedOperation:
        """Read what a caller asks for. Raises `UsageError` naming the field and what would be right."""
        if how == "submit":
            submit = parse_submit(request, self._options)
            return PreparedOperation(submit, first=None, retry_safe=submit.method in _REPEATABLE)
        adopt = parse_adopt(request, self._options)
        return PreparedOperation(adopt, first=self.adopt(adopt), retry_safe=False)

    def adopt(self, request: Adopt) -> PollAnswer:
        """Read the first answer that the caller brings along; nothing is sent."""
        try:
            asked = locate(self._options, request.url)
            answer = answer_of(request)
        except UsageError as error:
            return _refused(error)
        return read_adopted(answer, method=request.method, asked=asked, options=self._options, clock=self._clock)

    async def submit(self, spec: OperationSpec) -> PollAnswer:
        """Send the first request and read its answer; for an adopted operation, read the one at hand."""
        request = spec.request
        if isinstance(request, Adopt):
            return self.adopt(request)
        if not isinstance(request, Submit):
            raise TypeError(f"not a request for Fabric: {type(request).__name__}")
        try:
            asked = locate(self._options, request.url)
            content = content_of(request)
        except UsageError as error:
            return _refused(error)
        limit = max(self._options.max_result_bytes, STATE_BODY_MAX)
        try:
            answer = await self._ask(request.method, asked, request.headers, content, limit)
        except BodyTooLargeError as error:
            raise TransientError(
                f"{error}, the most that max_result allows", kind="garbage", condition=error.condition
            ) from error
        return read_first(answer, method=request.method, asked=asked, options=self._options, clock=self._clock)

    async def poll(self, spec: OperationSpec, ticket: object) -> PollAnswer:
        """Ask how the operation stands."""
        ticket = _checked(ticket, spec)
        answer = await self._get(ticket, ticket.path, STATE_BODY_MAX)
        return read_poll(answer, ticket, self._options, self._clock)

    async def fetch(self, spec: OperationSpec, ticket: object) -> Result:
        """Fetch the result of an operation that succeeded."""
        ticket = _checked(ticket, spec)
        if ticket.result_path is None:
            return NO_RESULT
        limit = self._options.max_result_bytes
        try:
            answer = await self._get(ticket, ticket.result_path, max(limit, STATE_BODY_MAX))
        except BodyTooLargeError:
            return self._too_large(limit)
        if answer.status == 200 and len(answer.body) > limit:
            return self._too_large(limit)
        return read_result(answer, f"GET {ticket.result_path.partition('?')[0]}", self._clock)

    async def cancel(self, spec: OperationSpec, ticket: object) -> None:
        """Ask the service to cancel; polling goes on, and tells what came of it.

        `ConflictError` for all but job instances, and for those that have ended; `TransientError` as for a poll.
        """
        ticket = _checked(ticket, spec)
        path = cancel_path(ticket.path)
        if path is None:
            raise ConflictError(
                "Fabric has no way to cancel this operation: it runs to its end there. Forget it to stop following it"
            )
        answer = await self._ask("POST", self._place(ticket, path), {}, None, STATE_BODY_MAX)
        read_canceled(answer, f"POST {path.partition('?')[0]}", self._clock)

    def dump_request(self, request: object) -> object:
        """The request as JSON values, for `load_request` of this or a later version."""
        return dump_request(request)

    def load_request(self, document: object) -> object:
        """What `dump_request` made. Raises `RegistryError` if it cannot be read."""
        return load_request(document)

    def dump_ticket(self, ticket: object) -> object:
        """The ticket as JSON values, for `load_ticket` of this or a later version."""
        return dump_ticket(ticket)

    def load_ticket(self, document: object) -> object:
        """What `dump_ticket` made. Raises `RegistryError` if it cannot be read."""
        return load_ticket(document)

    async def _get(self, ticket: Ticket, path: str, max_body: int) -> Answer:
        return await self._ask("GET", self._place(ticket, path), {}, None, max_body)

    def _place(self, ticket: Ticket, path: str) -> Place:
        place = place_of(self._options, ticket, path)
        if place is None:
            raise TransientError(
                f"{ticket.origin} may no longer see the token of fabric.{self._options.name}; "
                "put it back into allow_hosts to go on following the operation",
                kind="unauthorized",
            )
        return place

    async def _ask(
        self, method: str, place: Place, headers: Mapping[str, str], content: bytes | None, max_body: int
    ) -> Answer:
        """Send one request; after a 401 once more, with a fresh token."""
        used = None
        for fresh in (False, True):
            token = await self._tokens.token(fresh=fresh)
            if token == used:
                break
            used = token
            request = httpx.Request(method, place.url, headers=_headers(headers, token, content), content=content)
            answer = await exchange(self._client, request, max_body=max_body)
            if answer.status != 401:
                return answer
        refused = transient(answer, f"{method} {place}", self._clock)
        raise TransientError(
            f"{refused}: the token was refused; check it, its audience, and what this identity may do",
            kind="unauthorized",
            retry_after_s=refused.retry_after_s,
            condition=refused.condition,
        )

    def _too_large(self, limit: int) -> Result:
        return Result(
            kind="none",
            problem=f"result_too_large: it is larger than {limit} bytes; raise max_result of "
            f"[fabric.{self._options.name}], or fetch it from the service",
        )


def _headers(given: Mapping[str, str], token: str, content: bytes | None) -> httpx.Headers:
    headers = httpx.Headers(
        {"Accept": "application/json, */*;q=0.5", "User-Agent": f"renewer/{__version__}", "Accept-Encoding": "gzip"}
    )
    if content is not None:
        headers["Content-Type"] = "application/json"
    headers.update({name: value for name, value in given.items() if name.lower() not in OUR_HEADERS})
    headers["Authorization"] = f"Bearer {token}"
    return headers


def _checked(ticket: object, spec: OperationSpec) -> Ticket:
    if not isinstance(ticket, Ticket):
        raise TypeError(f"not a ticket of Fabric: {type(ticket).__name__} of {spec.id}")
    return ticket


def _refused(error: UsageError) -> Ended:
    return Ended("rejected", error={"errorCode": "NotSent", "message": f"not sent: {error}"})
