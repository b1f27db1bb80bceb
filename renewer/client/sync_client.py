"""The client for code that blocks.

Its methods stand by subject in `sync_leases`, `sync_receiving` and `sync_operations`; here are those about the
daemon itself and what happens in it.
"""

from __future__ import annotations

from types import TracebackType

from renewer.client import address, daemoncalls, following, plans
from renewer.client.daemonstatus import Status
from renewer.client.options import Names
from renewer.client.quantities import Duration, seconds
from renewer.client.sync_driver import Driver
from renewer.client.sync_events import EventStream
from renewer.client.sync_leases import LeaseMethods
from renewer.client.sync_operations import OperationMethods
from renewer.client.sync_receiving import MessageMethods


class Client(LeaseMethods, MessageMethods, OperationMethods):
    """A daemon, for code that blocks. May be used by several threads at once.

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
        self._driver = Driver(where, seconds("timeout", timeout))
        self._terms = plans.Terms(where, seconds("retry_for", retry_for))

    def __repr__(self) -> str:
        return f"<Client {self.api}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def api(self) -> str:
        """Where the daemon is, as RENEWER_API would say it."""
        return str(self._terms.address)

    def close(self) -> None:
        """Close the connections."""
        self._driver.close()

    def status(self) -> Status:
        """The daemon itself: counts, trouble, limits."""
        return self._call(daemoncalls.status())

    def drain(self, *, enabled: bool = True, park: bool = False) -> Status:
        """Have the daemon take no new work, or take it again; with `park` it gives every lock back as well."""
        return self._call(daemoncalls.drain(enabled=enabled, park=park))

    def forget(self, any_id: str) -> None:
        """Drop a lease, which is released, or an operation, which is no longer followed, by its id."""
        self._call(daemoncalls.forget(any_id))

    def events(
        self,
        *,
        types: Names = (),
        subjects: Names = (),
        after: str | None = None,
        reconnect_for: Duration | None = None,
    ) -> EventStream:
        """What happens from now on, or from after the event with this id, over as many connections as it takes.

        `types` such as ``lease.lost`` or ``lease``; `subjects` are ids. A daemon that goes away is waited for,
        `reconnect_for` at most, or for ever. ``stream.gap`` says that some were missed.
        """
        plan = following.all_events(types, subjects, self._terms, after=after, reconnect_for=reconnect_for)
        return EventStream(self._driver, plan)

    def watch(self, lease_id: str, *, reconnect_for: Duration | None = None) -> EventStream:
        """What happens to one lease, renewals included, until it is over. The first event is a ``snapshot``."""
        plan = following.lease_events(lease_id, self._terms, reconnect_for=reconnect_for)
        return EventStream(self._driver, plan)
