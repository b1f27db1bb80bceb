"""The client for async code, on asyncio or trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from types import TracebackType
from typing import Literal, TypeVar

from renewer.client import address, calls, plans
from renewer.client.adoption import adoption_of
from renewer.client.async_driver import AsyncDriver
from renewer.client.async_events import AsyncEventStream
from renewer.client.async_session import AsyncMessageLock, AsyncSession, block
from renewer.client.calls import LeaseWish, Names, OperationTerms, OwnerKind
from renewer.client.following import following, is_last, never
from renewer.client.models import Lease, Operation, Page, Result, Status, Waited
from renewer.client.quantities import Duration, seconds
from renewer.client.wire import Call

_T = TypeVar("_T")


class AsyncClient:
    """A daemon, for async code.

    `api` is ``unix:PATH``, ``tcp:HOST:PORT`` or ``http://HOST:PORT``; without it RENEWER_API says, else it is
    ``unix:./var/renewer.sock``. `key` is the bearer key, without it RENEWER_API_KEY. `timeout` is how long an answer
    may take that nothing is waited for; `retry_for` how long a daemon that is away is tried again. Raises
    `AddressError`; every method raises `RenewerApiError`.
    """

    def __init__(
        self,
        api: str | None = None,
        *,
        key: str | None = None,
        timeout: Duration = 10.0,
        retry_for: Duration = 2.0,
    ) -> None:
        where = address.find(api, key)
        self._driver = AsyncDriver(where, seconds("timeout", timeout))
        self._terms = plans.Terms(where, seconds("retry_for", retry_for))

    def __repr__(self) -> str:
        return f"<AsyncClient {self.api}>"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def api(self) -> str:
        """Where the daemon is, as RENEWER_API would say it."""
        return str(self._terms.address)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._driver.aclose()

    async def status(self) -> Status:
        """The daemon itself: counts, trouble, limits."""
        return await self._call(calls.status())

    async def drain(self, *, enabled: bool = True, park: bool = False) -> Status:
        """Have the daemon take no new work, or take it again; with `park` it gives every lock back as well."""
        return await self._call(calls.drain(enabled=enabled, park=park))

    async def lease_page(
        self,
        *,
        state: Names = (),
        kind: str | None = None,
        servicebus: str | None = None,
        entity: str | None = None,
        session_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        sort: Literal["registered", "remaining"] | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Page[Lease]:
        """One page of leases, `limit` (100) at most. Sorted by what remains, the nearest to expiry is first.

        Beside the single states `state` may be ``living`` or ``ended``, here and for operations.
        """
        return await self._call(
            calls.leases(
                state=state,
                kind=kind,
                servicebus=servicebus,
                entity=entity,
                session_id=session_id,
                labels=labels,
                sort=sort,
                limit=limit,
                after=after,
            )
        )

    async def leases(
        self,
        *,
        state: Names = (),
        kind: str | None = None,
        servicebus: str | None = None,
        entity: str | None = None,
        session_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        page_size: int | None = None,
    ) -> AsyncIterator[Lease]:
        """All leases, in the order of their registration, page after page."""
        states = _kept(state)
        after: str | None = None
        while True:
            page = await self.lease_page(
                state=states,
                kind=kind,
                servicebus=servicebus,
                entity=entity,
                session_id=session_id,
                labels=labels,
                limit=page_size,
                after=after,
            )
            for item in page.items:
                yield item
            if (after := page.next) is None:
                return

    async def lease(
        self, lease_id: str, *, wait: Duration = 0.0, until: Literal["settled", "over"] = "settled"
    ) -> Lease:
        """One lease; with `wait`, once it is no longer being acquired, or is over, or the time is."""
        return await self._driver.run(plans.wait_lease(lease_id, until, self._terms, wait_s=seconds("wait", wait)))

    async def hold(
        self,
        entity: str,
        session_id: str | None = None,
        *,
        servicebus: str | None = None,
        kind: Literal["session", "message"] = "session",
        lock_token: str | None = None,
        locked_until_utc: datetime | None = None,
        lock_duration: Duration | None = None,
        reacquire: bool | None = None,
        max_duration: Duration | None = None,
        labels: Mapping[str, str] | None = None,
        callback: str | None = None,
        owner: OwnerKind = "none",
        owner_ttl: Duration | None = None,
        pid: int | None = None,
        wait: Duration = 0.0,
        idempotency_key: str | None = None,
    ) -> Lease:
        """Have a lock held until it is released; see `session` for a block of code.

        A lock that is kept already is found again where it was asked for in the same way and without an owner, else it
        is a `Conflict`. With `wait`, returns once it is known whether the lock could be had, or the time is over: look
        at its `state`.
        """
        wish = LeaseWish(
            entity,
            session_id,
            servicebus,
            kind,
            lock_token,
            locked_until_utc,
            lock_duration,
            reacquire,
            max_duration,
            labels,
            callback,
            owner,
            owner_ttl,
            pid,
        )
        return await self._driver.run(
            plans.hold(
                wish,
                self._terms,
                wait_s=seconds("wait", wait),
                idempotency_key=idempotency_key,
            )
        )

    async def release(self, lease_id: str) -> None:
        """Give a lock back; it is free when this returns. One that has ended already is no error."""
        await self._call(calls.release(lease_id))

    async def renew(self, lease_id: str, *, timeout: Duration = 10.0) -> Lease:
        """Renew a lock now, without waiting for the daemon to find it due."""
        return await self._call(calls.renew(lease_id, timeout_s=seconds("timeout", timeout)))

    async def heartbeat(self, lease_id: str) -> Lease:
        """Say that the owner of a lease lives."""
        return await self._call(calls.heartbeat(lease_id))

    async def get_state(self, lease_id: str) -> bytes | None:
        """The state that a held session carries; None if there is none."""
        return await self._call(calls.get_state(lease_id))

    async def set_state(self, lease_id: str, state: bytes | bytearray | str | None) -> None:
        """Replace the state that a held session carries; None clears it."""
        await self._call(calls.set_state(lease_id, state))

    async def operation_page(
        self,
        *,
        state: Names = (),
        account: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Page[Operation]:
        """One page of operations, `limit` (100) at most."""
        return await self._call(calls.operations(state=state, account=account, labels=labels, limit=limit, after=after))

    async def operations(
        self,
        *,
        state: Names = (),
        account: str | None = None,
        labels: Mapping[str, str] | None = None,
        page_size: int | None = None,
    ) -> AsyncIterator[Operation]:
        """All operations, in the order of their registration, page after page."""
        states = _kept(state)
        after: str | None = None
        while True:
            page = await self.operation_page(state=states, account=account, labels=labels, limit=page_size, after=after)
            for item in page.items:
                yield item
            if (after := page.next) is None:
                return

    async def operation(self, operation_id: str, *, wait: Duration = 0.0) -> Operation:
        """One operation; with `wait`, once it has ended or the time is over."""
        return await self._driver.run(plans.wait_operation(operation_id, self._terms, wait_s=seconds("wait", wait)))

    async def submit(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        account: str | None = None,
        deadline: Duration | None = None,
        labels: Mapping[str, str] | None = None,
        callback: str | None = None,
        wait: Duration = 0.0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Have the daemon send a first request, with its own token, and follow what comes of it. `body` is JSON."""
        request = {"method": method, "url": url, "headers": dict(headers) if headers else None, "body": body}
        terms = OperationTerms(account, deadline, labels, callback)
        return await self._follow("submit", request, terms, wait, idempotency_key)

    async def adopt(
        self,
        method: str,
        url: str,
        status: int,
        *,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        account: str | None = None,
        deadline: Duration | None = None,
        labels: Mapping[str, str] | None = None,
        callback: str | None = None,
        wait: Duration = 0.0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Hand over a request that was sent and its first answer; `body` is the answer's, text or JSON."""
        request = {
            "method": method,
            "url": url,
            "status": status,
            "headers": dict(headers) if headers else None,
            "body": body,
        }
        terms = OperationTerms(account, deadline, labels, callback)
        return await self._follow("adopt", request, terms, wait, idempotency_key)

    async def follow(
        self,
        response: object,
        *,
        account: str | None = None,
        deadline: Duration | None = None,
        labels: Mapping[str, str] | None = None,
        callback: str | None = None,
        wait: Duration = 0.0,
    ) -> Operation:
        """Hand over the first answer of a long-running operation as httpx, requests or azure-core returned it."""
        terms = OperationTerms(account, deadline, labels, callback)
        return await self._follow("adopt", adoption_of(response), terms, wait, None)

    async def wait(self, operation_id: str, *, timeout: Duration | None = None) -> Operation:
        """One operation, once it has ended, well or not. Raises `Timeout`; it is followed on then."""
        return await self._driver.run(
            plans.ended_operation(operation_id, self._terms, wait_s=_limit("timeout", timeout))
        )

    async def wait_many(
        self, ids: Sequence[str], *, until: Literal["all", "any"] = "all", timeout: Duration | None = None
    ) -> Waited:
        """Several operations (1,000 at most), once all or one of them ended; not `done` if the time was over first."""
        return await self._driver.run(plans.wait_many(ids, until, self._terms, wait_s=_limit("timeout", timeout)))

    async def result(self, operation_id: str) -> Result:
        """What an operation left behind. `Conflict` if it has not ended, or ended without."""
        return await self._call(calls.result(operation_id))

    async def cancel(self, operation_id: str) -> Operation:
        """Ask the service to cancel; the operation tells in time what came of it."""
        return await self._call(calls.cancel(operation_id))

    async def forget(self, any_id: str) -> None:
        """Drop a lease, which is released, or an operation, which is no longer followed, by its id."""
        await self._call(calls.forget(any_id))

    def events(
        self,
        *,
        types: Names = (),
        subjects: Names = (),
        after: str | None = None,
        reconnect_for: Duration | None = None,
    ) -> AsyncEventStream:
        """What happens from now on, or from after the event with this id, over as many connections as it takes.

        `types` such as ``lease.lost`` or ``lease``; `subjects` are ids. A daemon that goes away is waited for,
        `reconnect_for` at most, or for ever. ``stream.gap`` says that some were missed.
        """
        kinds, ids = _kept(types), _kept(subjects)
        return AsyncEventStream(
            self._driver,
            following(
                lambda last: calls.events(kinds, ids, last),
                self._terms,
                after=after,
                reconnect_for_s=_limit("reconnect_for", reconnect_for),
                until=never,
            ),
        )

    def watch(self, lease_id: str, *, reconnect_for: Duration | None = None) -> AsyncEventStream:
        """What happens to one lease, renewals included, until it is over. The first event is a ``snapshot``."""
        return AsyncEventStream(
            self._driver,
            following(
                lambda _last: calls.lease_events(lease_id, owner=False),
                self._terms,
                after=None,
                reconnect_for_s=_limit("reconnect_for", reconnect_for),
                until=is_last,
            ),
        )

    def session(
        self,
        entity: str,
        session_id: str | None = None,
        *,
        servicebus: str | None = None,
        owner: OwnerKind = "connection",
        owner_ttl: Duration | None = None,
        on_lost: Callable[[AsyncSession, str, str], object] | None = None,
        on_at_risk: Callable[[AsyncSession, str], object] | None = None,
        lock_duration: Duration | None = None,
        reacquire: bool = False,
        max_duration: Duration | None = None,
        labels: Mapping[str, str] | None = None,
        callback: str | None = None,
        wait: Duration | None = 60.0,
    ) -> AbstractAsyncContextManager[AsyncSession]:
        """Hold a session, or the next available one, for the length of a block.

        A session that somebody else has is waited for, `wait` at most (None: for ever), then it is a `Timeout`; one
        that cannot be had at all is `SessionLost` at once. When the lock is lost, the block is cancelled,
        `on_lost(session, reason, detail)` is called once, and ``async with`` raises `SessionLost`. When the lock may be
        gone, also because the daemon is, `on_at_risk(session, detail)` is called, and every use raises `LockAtRisk`
        until it has recovered. Both may be async. Leaving the block gives the session back.
        """
        wish = LeaseWish(
            entity,
            session_id,
            servicebus,
            lock_duration=lock_duration,
            reacquire=reacquire,
            max_duration=max_duration,
            labels=labels,
            callback=callback,
            owner=owner,
            owner_ttl=owner_ttl,
        )
        return block(self._driver, self._terms, wish, _limit("wait", wait), AsyncSession, on_lost, on_at_risk)

    def message_lock(
        self,
        entity: str,
        lock_token: str,
        *,
        locked_until_utc: datetime | None = None,
        servicebus: str | None = None,
        owner: OwnerKind = "connection",
        owner_ttl: Duration | None = None,
        on_lost: Callable[[AsyncMessageLock, str, str], object] | None = None,
        on_at_risk: Callable[[AsyncMessageLock, str], object] | None = None,
        lock_duration: Duration | None = None,
        max_duration: Duration | None = None,
        labels: Mapping[str, str] | None = None,
        callback: str | None = None,
        wait: Duration | None = 60.0,
    ) -> AbstractAsyncContextManager[AsyncMessageLock]:
        """Keep the lock of a peek-locked message for the length of a block; settle the message inside it.

        Everything else is as for `session`, but that a loss raises `LockLost`, and that the lock is as good as ever
        while the daemon is away, until its time is over.
        """
        wish = LeaseWish(
            entity,
            None,
            servicebus,
            "message",
            lock_token,
            locked_until_utc,
            lock_duration,
            False,
            max_duration,
            labels,
            callback,
            owner,
            owner_ttl,
        )
        return block(self._driver, self._terms, wish, _limit("wait", wait), AsyncMessageLock, on_lost, on_at_risk)

    async def _call(self, call: Call[_T]) -> _T:
        return await self._driver.run(plans.exchange(call, self._terms))

    async def _follow(
        self,
        how: Literal["submit", "adopt"],
        request: Mapping[str, object],
        terms: OperationTerms,
        wait: Duration,
        idempotency_key: str | None,
    ) -> Operation:
        key = plans.new_key() if idempotency_key is None else idempotency_key
        return await self._driver.run(
            plans.follow(
                lambda wait_s: calls.register_operation(how, request, terms, wait_s=wait_s, idempotency_key=key),
                self._terms,
                wait_s=seconds("wait", wait),
            )
        )


def _kept(names: Names) -> Names:
    return names if isinstance(names, str) else tuple(names)


def _limit(name: str, span: Duration | None) -> float | None:
    return None if span is None else seconds(name, span)
