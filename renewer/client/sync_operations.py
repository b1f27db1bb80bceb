"""Long-running operations, for code that blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from renewer.client import calls, plans
from renewer.client.adoption import adoption_of
from renewer.client.arguments import kept, limit_s
from renewer.client.calls import FinalStateVia, FollowProtocol, Names, OperationTerms
from renewer.client.models import Operation, Page, Result, SavedResult, Waited
from renewer.client.quantities import Duration, seconds
from renewer.client.saving import Saving, Unwritable
from renewer.client.sync_base import Base


class OperationMethods(Base):
    """The methods of `Client` that are about operations."""

    def operation_page(
        self,
        *,
        state: Names = (),
        account: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Page[Operation]:
        """One page of operations, `limit` (100) at most."""
        return self._call(calls.operations(state=state, account=account, labels=labels, limit=limit, after=after))

    def operations(
        self,
        *,
        state: Names = (),
        account: str | None = None,
        labels: Mapping[str, str] | None = None,
        page_size: int | None = None,
    ) -> Iterator[Operation]:
        """All operations, in the order of their registration, page after page."""
        states = kept(state)
        after: str | None = None
        while True:
            page = self.operation_page(state=states, account=account, labels=labels, limit=page_size, after=after)
            yield from page.items
            if (after := page.next) is None:
                return

    def operation(self, operation_id: str, *, wait: Duration = 0.0) -> Operation:
        """One operation; with `wait`, once it has ended or the time is over."""
        return self._driver.run(plans.wait_operation(operation_id, self._terms, wait_s=seconds("wait", wait)))

    def submit(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        account: str | None = None,
        protocol: FollowProtocol | None = None,
        final_state_via: FinalStateVia | None = None,
        poll_query: Mapping[str, str] | None = None,
        poll_headers: Mapping[str, str] | None = None,
        early_probe: Duration | None = None,
        deadline: Duration | None = None,
        labels: Mapping[str, str] | None = None,
        callback: str | None = None,
        wait: Duration = 0.0,
        idempotency_key: str | None = None,
    ) -> Operation:
        """Have the daemon send a first request, with its own token, and follow what comes of it. `body` is JSON.

        `protocol` and `final_state_via` say how, and where its result is, for services whose first answer leaves that
        open; `poll_query` and `poll_headers` are added to each poll. `early_probe` has it asked about once so soon,
        whatever the service says; 0 never.
        """
        request = {"method": method, "url": url, "headers": dict(headers) if headers else None, "body": body}
        terms = OperationTerms(
            account,
            protocol,
            final_state_via,
            poll_query,
            poll_headers,
            early_probe,
            deadline,
            labels,
            callback,
        )
        return self._follow("submit", request, terms, wait, idempotency_key)

    def adopt(
        self,
        method: str,
        url: str,
        status: int,
        *,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        account: str | None = None,
        protocol: FollowProtocol | None = None,
        final_state_via: FinalStateVia | None = None,
        poll_query: Mapping[str, str] | None = None,
        poll_headers: Mapping[str, str] | None = None,
        early_probe: Duration | None = None,
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
        terms = OperationTerms(
            account,
            protocol,
            final_state_via,
            poll_query,
            poll_headers,
            early_probe,
            deadline,
            labels,
            callback,
        )
        return self._follow("adopt", request, terms, wait, idempotency_key)

    def follow(
        self,
        response: object,
        *,
        account: str | None = None,
        protocol: FollowProtocol | None = None,
        final_state_via: FinalStateVia | None = None,
        poll_query: Mapping[str, str] | None = None,
        poll_headers: Mapping[str, str] | None = None,
        early_probe: Duration | None = None,
        deadline: Duration | None = None,
        labels: Mapping[str, str] | None = None,
        callback: str | None = None,
        wait: Duration = 0.0,
    ) -> Operation:
        """Hand over the first answer of a long-running operation as httpx, requests or azure-core returned it."""
        terms = OperationTerms(
            account,
            protocol,
            final_state_via,
            poll_query,
            poll_headers,
            early_probe,
            deadline,
            labels,
            callback,
        )
        return self._follow("adopt", adoption_of(response), terms, wait, None)

    def wait(self, operation_id: str, *, timeout: Duration | None = None) -> Operation:
        """One operation, once it has ended, well or not. Raises `Timeout`; it is followed on then."""
        return self._driver.run(plans.ended_operation(operation_id, self._terms, wait_s=limit_s("timeout", timeout)))

    def wait_many(
        self, ids: Sequence[str], *, until: Literal["all", "any"] = "all", timeout: Duration | None = None
    ) -> Waited:
        """Several operations (1,000 at most), once all or one of them ended; not `done` if the time was over first."""
        return self._driver.run(plans.wait_many(ids, until, self._terms, wait_s=limit_s("timeout", timeout)))

    def wait_all(self, ids: Sequence[str], *, timeout: Duration | None = None) -> tuple[Operation, ...]:
        """Several operations, in this order, once all have ended, well or not. Raises `Timeout`, or `NotFound`."""
        wait_s = limit_s("timeout", timeout)
        return self._driver.run(plans.ended_operations(ids, "all", self._terms, wait_s=wait_s))

    def wait_any(self, ids: Sequence[str], *, timeout: Duration | None = None) -> tuple[Operation, ...]:
        """Those of several operations that have ended, once one has. Raises `Timeout`, or `NotFound`."""
        wait_s = limit_s("timeout", timeout)
        return self._driver.run(plans.ended_operations(ids, "any", self._terms, wait_s=wait_s))

    def result(self, operation_id: str) -> Result:
        """What an operation left behind. `Conflict` if it has not ended, or ended without."""
        return self._call(calls.result(operation_id))

    def save_result(self, operation_id: str, path: str | os.PathLike[str]) -> SavedResult:
        """Write what an operation left behind to a file, however large; the file is replaced when all of it is there.

        Raises `OSError` if it cannot be written, else as `result`.
        """
        into = Saving(path)
        try:
            return self._driver.run(plans.exchange(calls.save_result(operation_id, into), self._terms, into=into))
        except Unwritable as failure:
            raise failure.error from None
        finally:
            into.discard()

    def cancel(self, operation_id: str) -> Operation:
        """Ask the service to cancel; the operation tells in time what came of it."""
        return self._call(calls.cancel(operation_id))

    def _follow(
        self,
        how: Literal["submit", "adopt"],
        request: Mapping[str, object],
        terms: OperationTerms,
        wait: Duration,
        idempotency_key: str | None,
    ) -> Operation:
        key = plans.new_key() if idempotency_key is None else idempotency_key
        return self._driver.run(
            plans.follow(
                lambda wait_s: calls.register_operation(how, request, terms, wait_s=wait_s, idempotency_key=key),
                self._terms,
                wait_s=seconds("wait", wait),
            )
        )
