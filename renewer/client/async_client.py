"""The client for async code, on asyncio or trio.

Its methods stand by subject in `async_leases`, `async_receiving` and `async_operations`; here are those about the
daemon itself and what happens in it.
"""

from __future__ import annotations

from types import TracebackType

from renewer.client import address, daemoncalls, following, plans
from renewer.client.async_driver import AsyncDriver
from renewer.client.async_events import AsyncEventStream
from renewer.client.async_leases import AsyncLeaseMethods
from renewer.client.async_operations import AsyncOperationMethods
from renewer.client.async_receiving import AsyncMessageMethods
from renewer.client.daemonstatus import Status
from renewer.client.options import Names
from renewer.client.quantities import Duration, seconds


class AsyncClient(AsyncLeaseMethods, AsyncMessageMethods, AsyncOperationMethods):
    """A daemon, for async code.

    `api` is ``unix:PATH``, ``tcp:HOST:PORT`` or ``http://HOST:PORT``; without it RENEWER_API says, else it is
    ``unix:./var/renewer.sock``. `key` is the bearer key, without it RENEWER_API_KEY. `timeout` is how long an answer
    may take that nothing is waited for; `retry_for` how long a daemon that is away is tried again. Raises
    `AddressError`; every method raises `RenewerApiError`.

    What several methods take beside what they name is listed once: by `LeaseOptions` how a lock is to be kept, by
    `OperationOptions` how an operation is to be followed, by `LeaseFilter` and `OperationFilter` which are wanted.
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
        return await self._call(daemoncalls.status())

    async def drain(self, *, enabled: bool = True, park: bool = False) -> Status:
        """Have the daemon take no new work, or take it again; with `park` it gives every lock back as well."""
        return await self._call(daemoncalls.drain(enabled=enabled, park=park))

    async def forget(self, any_id: str) -> None:
        """Drop a lease, which is released, or an operation, which is no longer followed, by its id."""
        await self._call(daemoncalls.forget(any_id))

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
        plan = following.all_events(types, subjects, self._terms, after=after, reconnect_for=reconnect_for)
        return AsyncEventStream(self._driver, plan)

    def watch(self, lease_id: str, *, reconnect_for: Duration | None = None) -> AsyncEventStream:
        """What happens to one lease, renewals included, until it is over. The first event is a ``snapshot``."""
        plan = following.lease_events(lease_id, self._terms, reconnect_for=reconnect_for)
        return AsyncEventStream(self._driver, plan)
