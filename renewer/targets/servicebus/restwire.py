"""Message locks over HTTPS, for networks where AMQP is closed: renew, complete and abandon, and no more.

The service names a message by its sequence number and its lock token, in the path ("Service Bus runtime REST": renew
lock POST, unlock PUT, delete DELETE). A renewal tells no new time, so that the lock counts for its known duration from
when the request was sent. 404 says that the lock is over, 410 that there is no such entity. Messages cannot be
deferred, dead-lettered or looked at this way, and there are no sessions.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import anyio
import httpx

from renewer.core.states import LossReason
from renewer.errors import ConflictError, LeaseLostError, RemoteError, TransientError
from renewer.targets.http import build_transport, exchange
from renewer.targets.retryafter import retry_after_s
from renewer.targets.servicebus.lockbatches import Renewed, without_tokens
from renewer.targets.servicebus.verdicts import shorten

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from anyio.abc import TaskStatus

    from renewer.errors import TransientKind
    from renewer.ports import Clock, Settlement
    from renewer.targets.servicebus.credentials import TokenProvider
    from renewer.targets.servicebus.lockbatches import Wish
    from renewer.targets.servicebus.messagewire import LockedMessage
    from renewer.targets.servicebus.options import NamespaceOptions
    from renewer.targets.servicebus.pacing import Pace

MAX_ERROR_BYTES: Final = 64 * 1024

_DETAIL: Final = re.compile(rb"<Detail>(.{1,2000}?)</Detail>", re.DOTALL)
_METHODS: Final = {"complete": "DELETE", "abandon": "PUT"}
_KINDS: Final[dict[int, TransientKind]] = {
    403: "unauthorized",
    408: "timeout",
    429: "throttled",
    503: "busy",
    504: "timeout",
}


class RestWire:
    """The way over HTTPS. `provider` gives the tokens; nothing is connected to before `serve`."""

    def __init__(
        self,
        options: NamespaceOptions,
        provider: TokenProvider,
        pace: Pace,
        clock: Clock,
        *,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._options = options
        self._provider = provider
        self._pace = pace
        self._clock = clock
        self._tls = tls
        self._transport: httpx.AsyncBaseTransport | None = None

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Keep connections, until cancelled."""
        # A client of httpx would log the URLs, and the lock tokens in them.
        async with build_transport(max_connections=self._options.request_window, ssl_context=self._tls) as transport:
            self._transport = transport
            try:
                task_status.started()
                await anyio.sleep_forever()
            finally:
                self._transport = None

    def enter(self, entity: str) -> None:
        """Requests belong to no connection."""

    def leave(self, entity: str) -> None:
        """Requests belong to no connection."""

    def withdraw(self, message: LockedMessage) -> None:
        """Nothing waits to be sent."""

    def check(self, settlement: Settlement) -> None:
        """Only what REST can do."""
        if settlement.how not in _METHODS:
            raise ConflictError(
                f"over REST a message can be completed or abandoned, and {settlement.how} is not among that; "
                'transport = "amqp" or "amqp-websocket" has it'
            )
        if settlement.properties:
            raise ConflictError("over REST the properties of a message cannot be changed; leave them out")

    def ask(self, entity: str, wishes: Sequence[Wish]) -> bool:
        """REST renews one lock at a time."""
        return False

    async def renew(self, message: LockedMessage, *, lock_s: float, deadline: float) -> Renewed:
        """Renew the lock. LeaseLostError if it is over, or the message is named by nothing that REST knows."""
        await self._pace.turn(deadline)
        sent_at = self._clock.now()
        try:
            await self._ask("POST", message)
        except RemoteError as error:
            self._pace.note(error)
            raise
        return Renewed(None, sent_at, self._clock.now())

    async def settle(self, message: LockedMessage, settlement: Settlement) -> None:
        """Complete or abandon the message."""
        await self._ask(_METHODS[settlement.how], message)

    async def look(self, entity: str, number: int) -> str | None:
        """REST has no way to look at a message without receiving it."""
        raise TransientError("over REST a message cannot be looked at", kind="refused")

    def hide(self, text: str, message: LockedMessage) -> str:
        """The words without the token, however it is written."""
        return without_tokens(text, [message.token])

    async def _ask(self, method: str, message: LockedMessage) -> None:
        number = message.sequence_number
        if number is None:
            raise LeaseLostError(
                "over REST a message is known by its sequence_number: register it with that", reason=LossReason.REFUSED
            )
        where = f"/{quote(message.entity, safe='/$')}/messages/{number}/"
        token = await self._provider.token(message.entity)
        status = await self._exchange(method, where, message, token.text, token.kind)
        if status == 401:
            token = await self._provider.token(message.entity, refused=True)
            status = await self._exchange(method, where, message, token.text, token.kind)
            if status == 401:
                raise LeaseLostError(
                    f"{method} {where} was answered with 401; {self._provider.remedy}", reason=LossReason.UNAUTHORIZED
                )

    async def _exchange(self, method: str, where: str, message: LockedMessage, token: str, kind: str) -> int:
        if self._transport is None:
            raise TransientError("the target is not running", kind="network")
        request = httpx.Request(
            method,
            f"{self._options.rest_url}{where}{message.token}",
            headers={"Authorization": f"Bearer {token}" if kind == "jwt" else token, "User-Agent": "renewer"},
        )
        shown = f"{method} {where}<lock token>"
        answer = await exchange(self._transport, request, max_body=MAX_ERROR_BYTES, shown=shown)
        if 200 <= answer.status < 300 or answer.status == 401:
            return answer.status
        text = f"{shown} was answered with {answer.status}"
        if (detail := _DETAIL.search(answer.body)) is not None:
            said = shorten(html.unescape(detail[1].decode("utf-8", "replace")))
            text = f"{text}: {self.hide(said, message)}"
        match answer.status:
            case 404:
                raise LeaseLostError(text, reason=LossReason.EXPIRED)
            case 410:
                raise LeaseLostError(text, reason=LossReason.ENTITY_GONE)
            case 400:
                # What the broker does not do there, such as to renew the lock of a message that is in a session.
                raise TransientError(text, kind="server", condition="com.microsoft:argument-error")
            case status:
                delay_s = retry_after_s(answer.headers, self._clock)
                raise TransientError(text, kind=_KINDS.get(status, "server"), retry_after_s=delay_s)
