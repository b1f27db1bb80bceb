"""Callbacks: tells owners, by HTTP POST, what became of their leases and operations, at least once.

A delivery stands in the registry until it is acknowledged by a 2xx. Anything else is tried again, with pauses that
grow to five minutes, until `give_up` or a 410 Gone. Redirects are not followed and answers are not read. A URL can
hold a secret: nothing but its scheme, host and port is ever shown.
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import anyio
import httpx
import structlog

from renewer import __version__
from renewer.core.timing import full_jitter_s
from renewer.daemon.deliveries import (
    CONTENT_TYPE,
    Delivery,
    Outbox,
    callback_url,
    make_entry,
    read_entry,
    signature,
)
from renewer.daemon.destinations import Destinations, address_problem
from renewer.errors import RegistryError, TransientError, UsageError
from renewer.targets.addresses import guarded_resolver
from renewer.targets.http import build_client, exchange
from renewer.targets.retryafter import retry_after_s

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus

    from renewer.core.effects import TellLease, TellOperation
    from renewer.core.model import OperationId
    from renewer.core.operations import Operation
    from renewer.ports import Clock, Entry

MAX_UNDER_WAY = 16
BACKOFF_BASE_S = 1.0
BACKOFF_CAP_S = 300.0

_LONGEST_ASKED_S = 3600.0
_MAX_SLEEP_S = 60.0
_CLOSE_TIMEOUT_S = 2.0

_log = structlog.get_logger("renewer.callbacks")


@dataclass(frozen=True, slots=True)
class CallbackOptions:
    """How callbacks are sent: to which hosts, signed with what, and for how long. See `Destinations`."""

    allow_hosts: tuple[str, ...] = ()
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 10.0
    give_up_s: float = 86_400.0


class Callbacks:
    """Makes deliveries from news, and delivers them while `run` runs. To be used on one event loop.

    `on_done` is called with the id of each delivery that need not be kept any longer. `outcomes` counts attempts that
    were ``delivered`` or ``failed``, and deliveries that were ``given_up``.
    """

    def __init__(
        self,
        options: CallbackOptions,
        clock: Clock,
        *,
        operation: Callable[[OperationId], Operation | None] = lambda _: None,
        client: httpx.AsyncClient | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`operation` looks up what became of one; `client`, if given, stays the caller's to close.

        Raises `ConfigError` if a host of the options is none.
        """
        self.on_done: Callable[[str], None] = _nobody
        self.outcomes = {"delivered": 0, "failed": 0, "given_up": 0}
        self._options = options
        self._destinations = Destinations(options.allow_hosts)
        self._clock = clock
        self._operation = operation
        self._owns_client = client is None
        self._client = client or build_client(
            max_connections=MAX_UNDER_WAY, resolver=partial(guarded_resolver, address_problem)
        )
        self._draw = draw
        self._outbox = Outbox()
        self._number = 0
        self._under_way = 0
        self._changed = anyio.Event()
        self._attempted = anyio.Event()

    @property
    def pending(self) -> int:
        """How many deliveries are still to be acknowledged."""
        return len(self._outbox)

    def use(self, options: CallbackOptions) -> None:
        """Go on with other options. Raises `ConfigError`, and goes on as before, if a host of theirs is none."""
        self._destinations = Destinations(options.allow_hosts)
        self._options = options

    def check_url(self, url: str) -> None:
        """Raises `UsageError` if this URL may not be called back."""
        self._destinations.check(url)

    def entry_for(self, news: TellLease | TellOperation) -> Entry | None:
        """What is to be stored, before the news is told, so that its delivery survives; None if nobody is called."""
        url = callback_url(news)
        if url is None:
            return None
        self._number += 1
        return make_entry(
            news,
            url,
            event_id=f"event-{secrets.token_hex(12)}",
            number=self._number,
            time=self._clock.utc_now() + timedelta(seconds=news.at - self._clock.now()),
            operation=self._operation,
        )

    def send(self, entry: Entry) -> None:
        """Deliver it from now on; the news may be told."""
        self._add(read_entry(entry), age_s=0.0)

    def restore(self, entries: Iterable[Entry]) -> None:
        """Go on with the deliveries of an earlier run. One that cannot be read is reported, and left as it is."""
        for entry in sorted(entries, key=lambda entry: entry.number):
            self._number = max(self._number, entry.number)
            try:
                delivery = read_entry(entry)
            except RegistryError as error:
                _log.error("callback unreadable", callback=entry.id, detail=str(error))
                continue
            self._add(delivery, age_s=(self._clock.utc_now() - delivery.happened_at).total_seconds())

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled, then close the connections. What is not acknowledged by then is not `on_done`."""
        task_status.started()
        try:
            async with anyio.create_task_group() as tasks:
                while True:
                    self._changed = anyio.Event()
                    self._start_due(tasks)
                    await self._sleep()
        finally:
            if self._owns_client:
                with anyio.move_on_after(_CLOSE_TIMEOUT_S, shield=True):
                    await self._client.aclose()

    async def caught_up(self) -> None:
        """Return when nothing is under way and nothing is due: all there is was delivered, or waits to be retried."""
        while self._under_way or self._is_due():
            if self._attempted.is_set():
                self._attempted = anyio.Event()
            await self._attempted.wait()

    def _add(self, delivery: Delivery, *, age_s: float) -> None:
        # The wall clock says how old it is only across restarts, and what is too old is tried once all the same.
        delivery.give_up_at = self._clock.now() + self._options.give_up_s - max(age_s, 0.0)
        gives_way = self._outbox.add(delivery, self._clock.now())
        if gives_way is not None:
            self._given_up(gives_way, "too many wait to be delivered")
        self._changed.set()

    def _is_due(self) -> bool:
        next_due = self._outbox.next_due()
        return next_due is not None and next_due <= self._clock.now()

    def _start_due(self, tasks: TaskGroup) -> None:
        while self._under_way < MAX_UNDER_WAY:
            delivery = self._outbox.take(self._clock.now())
            if delivery is None:
                return
            self._under_way += 1
            tasks.start_soon(self._deliver, delivery)

    async def _sleep(self) -> None:
        next_due = self._outbox.next_due() if self._under_way < MAX_UNDER_WAY else None
        span_s = _MAX_SLEEP_S if next_due is None else min(next_due - self._clock.now(), _MAX_SLEEP_S)
        with anyio.move_on_after(max(span_s, 0.0)):
            await self._changed.wait()

    async def _deliver(self, delivery: Delivery) -> None:
        failure = await self._attempt(delivery)
        self._under_way -= 1
        if failure is None:
            self.outcomes["delivered"] += 1
            self._outbox.finish(delivery, self._clock.now())
            _log.debug("callback delivered", **_fields(delivery))
            self._done(delivery)
        else:
            self._failed(delivery, failure)
        self._changed.set()
        self._attempted.set()

    async def _attempt(self, delivery: Delivery) -> _Failure | None:
        try:
            origin = self._destinations.check(delivery.url)
        except UsageError as error:
            # It was allowed when it was asked for, and may be allowed again by a corrected configuration.
            return _Failure(str(error))
        try:
            body = json.dumps(delivery.event, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
            request = httpx.Request("POST", delivery.url, headers=self._headers(body), content=body)
            with anyio.fail_after(self._options.timeout_s):
                answer = await exchange(self._client, request, max_body=None, shown=f"POST {origin}")
        except TimeoutError:
            return _Failure(f"POST {origin}: no answer in time")
        except TransientError as error:
            return _Failure(str(error))
        except Exception as error:
            # Its text is not shown: it could hold the URL.
            return _Failure(f"unexpected {type(error).__name__}")
        match answer.status:
            case status if 200 <= status < 300:
                return None
            case 410:
                return _Failure(f"POST {origin}: HTTP 410, the receiver wants no more of it", is_final=True)
            case status if 300 <= status < 400:
                return _Failure(f"POST {origin}: HTTP {status}, but redirects are not followed")
            case status:
                asked_s = retry_after_s(answer.headers, self._clock)
                return _Failure(f"POST {origin}: HTTP {status}", retry_after_s=asked_s)

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": CONTENT_TYPE, "User-Agent": f"renewer/{__version__}"}
        if self._options.key is not None:
            moment = int(self._clock.utc_now().timestamp())
            headers["Renewer-Signature"] = signature(self._options.key, moment, body)
        return headers

    def _failed(self, delivery: Delivery, failure: _Failure) -> None:
        now = self._clock.now()
        delivery.failures += 1
        self.outcomes["failed"] += 1
        if failure.is_final or delivery.give_up_at <= now:
            self._outbox.finish(delivery, now)
            self._given_up(delivery, failure.detail)
            return
        delay_s = full_jitter_s(delivery.failures, self._draw(), base_s=BACKOFF_BASE_S, cap_s=BACKOFF_CAP_S)
        asked_s = min(failure.retry_after_s or 0.0, _LONGEST_ASKED_S)
        self._outbox.retry(delivery, now + max(delay_s, asked_s))
        if delivery.failures & (delivery.failures - 1) == 0:
            _log.warning(
                "callback not delivered", **_fields(delivery), failures=delivery.failures, detail=failure.detail
            )

    def _given_up(self, delivery: Delivery, detail: str) -> None:
        self.outcomes["given_up"] += 1
        _log.warning("callback given up", **_fields(delivery), failures=delivery.failures, detail=detail)
        self._done(delivery)

    def _done(self, delivery: Delivery) -> None:
        self.on_done(delivery.id)


@dataclass(frozen=True, slots=True)
class _Failure:
    detail: str
    is_final: bool = False
    retry_after_s: float | None = None


def _fields(delivery: Delivery) -> dict[str, object]:
    return {"callback": delivery.id, "type": delivery.type, "subject": delivery.subject}


def _nobody(_: str) -> None:
    """What is done with is nobody's concern."""
