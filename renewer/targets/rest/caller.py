"""Sends one request of an account, with its token; and decides which server may have it at all."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import anyio
from multidict import CIMultiDict

from renewer import __version__
from renewer.errors import TransientError
from renewer.targets.addresses import guarded_resolver
from renewer.targets.http import Answer, Sender, build_transport, exchange
from renewer.targets.rest.cookies import NO_COOKIES, Cookies, header
from renewer.targets.rest.documents import transient
from renewer.targets.rest.requests import OUR_HEADERS
from renewer.targets.transport import PlainRequest, check_headers

if TYPE_CHECKING:
    import httpx
    from anyio.abc import TaskStatus

    from renewer.ports import Clock
    from renewer.targets.rest.account import AccountOptions
    from renewer.targets.rest.places import Place
    from renewer.targets.spool import Spool
    from renewer.targets.tokens import TokenSource

_CLOSE_TIMEOUT_S = 2.0
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_DEFAULTS = {"Accept": "application/json, */*;q=0.5", "User-Agent": f"renewer/{__version__}", "Accept-Encoding": "gzip"}


class Caller:
    """Asks the servers of one account, and no other: where `options` do not allow a host, nothing is sent."""

    def __init__(
        self,
        options: AccountOptions,
        tokens: TokenSource,
        clock: Clock,
        *,
        client: Sender | None = None,
        spool: Spool | None = None,
    ) -> None:
        """`client`, if given, stays the caller's to close; `spool` is where large results go."""
        self._options = options
        self._tokens = tokens
        self._clock = clock
        self._spool = spool
        self._owns_client = client is None
        self._sender = client or build_account_transport(options)
        self._bare: tuple[str, CIMultiDict[str]] | None = None
        self.token_failures = 0
        """How many requests failed for want of a token that the service takes."""

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, then close the connections."""
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            if self._owns_client:
                with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
                    await self._sender.aclose()

    async def ask(
        self,
        method: str,
        place: Place,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        content: bytes | None = None,
        max_body: int,
        cookies: Cookies = NO_COOKIES,
        spooled: bool = False,
    ) -> Answer:
        """Send one request and read its answer, at most `max_body` bytes of it; after a 401 again, with a new token.

        With `spooled` a large body goes into a file. Raises `TransientError`: of kind unauthorized where `place` may
        not see the token or the token is refused, and as `renewer.targets.http.exchange` does.
        """
        if not self._options.allows(place.origin):
            raise TransientError(
                f"{place.origin} may no longer see the token of [{self._options.name}]; "
                "put it back into allow_hosts there to go on following the operation",
                kind="unauthorized",
            )
        used = None
        for fresh in (False, True):
            try:
                token = await self._tokens.token(fresh=fresh)
            except TransientError as error:
                self.token_failures += 1
                if fresh:
                    raise
                raise TransientError(str(error), kind="no_token", condition=error.condition) from error
            if token == used:
                break
            used = token
            if headers or cookies or content is not None:
                sent = _headers(headers, token, content)
                cookie = header(cookies, place, self._clock)
                if cookie is not None:
                    sent["Cookie"] = cookie
                check_headers(sent.items())
            else:
                sent = self._bare_headers(token)
            request = PlainRequest(method, place.url, sent, content, are_headers_checked=True)
            answer = await exchange(self._sender, request, max_body=max_body, spool=self._spool if spooled else None)
            if answer.status != 401:
                return answer
        self.token_failures += 1
        refused = transient(answer, f"{method} {place}", self._clock)
        raise TransientError(
            f"{refused}: the token was refused; check it, its audience, and what this identity may do",
            kind="unauthorized",
            retry_after_s=refused.retry_after_s,
            condition=refused.condition,
        )

    def _bare_headers(self, token: str) -> CIMultiDict[str]:
        """The headers of most polls; not to be changed."""
        if self._bare is None or self._bare[0] != token:
            headers = _headers(_NO_HEADERS, token, None)
            check_headers(headers.items())
            self._bare = token, headers
        return self._bare[1]


def build_account_transport(options: AccountOptions) -> httpx.AsyncBaseTransport:
    """Make a transport for which host names lead only where those of this account may; whoever made it closes it."""
    return build_transport(
        max_connections=options.max_connections, resolver=partial(guarded_resolver, options.addresses.problem)
    )


def _headers(given: Mapping[str, str], token: str, content: bytes | None) -> CIMultiDict[str]:
    headers = CIMultiDict(_DEFAULTS)
    if content is not None:
        headers["Content-Type"] = "application/json"
    headers.update({name: value for name, value in given.items() if name.lower() not in OUR_HEADERS})
    headers["Authorization"] = f"Bearer {token}"
    return headers
