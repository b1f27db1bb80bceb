"""Long-running operations, for async code."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, Unpack

from renewer.client import operationcalls, plans
from renewer.client.adoption import adoption_of
from renewer.client.async_base import AsyncBase
from renewer.client.models import Operation, Page, Result, SavedResult, Waited
from renewer.client.operationcalls import OperationTerms
from renewer.client.options import OperationFilter, OperationOptions, check_options, kept, limit_s
from renewer.client.quantities import Duration, seconds
from renewer.client.saving import Saving, Unwritable


class AsyncOperationMethods(AsyncBase):
    """The methods of `AsyncClient` that are about operations."""

    async def operation_page(
        self, *, limit: int | None = None, after: str | None = None, **wanted: Unpack[OperationFilter]
    ) -> Page[Operation]:
        """One page of operations, `limit` (100) at most; `wanted`: see `OperationFilter`."""
        check_options("operation_page", wanted, OperationFilter)
        return await self._call(operationcalls.operations(limit=limit, after=after, **wanted))

    def operations(
        self, *, page_size: int | None = None, **wanted: Unpack[OperationFilter]
    ) -> AsyncIterator[Operation]:
        """All operations, in the order of their registration, page after page; `wanted`: see `OperationFilter`."""
        check_options("operations", wanted, OperationFilter)
        wanted["state"] = kept(wanted.get("state", ()))
        return self._all(lambda after: operationcalls.operations(limit=page_size, after=after, **wanted))

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
        wait: Duration = 0.0,
        idempotency_key: str | None = None,
        **options: Unpack[OperationOptions],
    ) -> Operation:
        """Have the daemon send a first request, with its own token, and follow what comes of it. `body` is JSON.

        With `wait`, returns once the operation has ended, or the time is over. `options`: see `OperationOptions`.
        """
        check_options("submit", options, OperationOptions)
        request = {"method": method, "url": url, "headers": dict(headers) if headers else None, "body": body}
        return await self._follow("submit", request, OperationTerms(**options), wait, idempotency_key)

    async def adopt(
        self,
        method: str,
        url: str,
        status: int,
        *,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        wait: Duration = 0.0,
        idempotency_key: str | None = None,
        **options: Unpack[OperationOptions],
    ) -> Operation:
        """Hand over a request that was sent and its first answer; `body` is the answer's, text or JSON.

        `options` are those of `OperationOptions`.
        """
        check_options("adopt", options, OperationOptions)
        request = {
            "method": method,
            "url": url,
            "status": status,
            "headers": dict(headers) if headers else None,
            "body": body,
        }
        return await self._follow("adopt", request, OperationTerms(**options), wait, idempotency_key)

    async def follow(self, response: object, *, wait: Duration = 0.0, **options: Unpack[OperationOptions]) -> Operation:
        """Hand over the first answer of a long-running operation as httpx, requests or azure-core returned it.

        `options` are those of `OperationOptions`.
        """
        check_options("follow", options, OperationOptions)
        return await self._follow("adopt", adoption_of(response), OperationTerms(**options), wait, None)

    async def wait(self, operation_id: str, *, timeout: Duration | None = None) -> Operation:
        """One operation, once it has ended, well or not. Raises `Timeout`; it is followed on then."""
        wait_s = limit_s("timeout", timeout)
        return await self._driver.run(plans.ended_operation(operation_id, self._terms, wait_s=wait_s))

    async def wait_many(
        self, ids: Sequence[str], *, until: Literal["all", "any"] = "all", timeout: Duration | None = None
    ) -> Waited:
        """Several operations (1,000 at most), once all or one of them ended; not `done` if the time was over first."""
        return await self._driver.run(plans.wait_many(ids, until, self._terms, wait_s=limit_s("timeout", timeout)))

    async def wait_all(self, ids: Sequence[str], *, timeout: Duration | None = None) -> tuple[Operation, ...]:
        """Several operations, in this order, once all have ended, well or not. Raises `Timeout`, or `NotFound`."""
        wait_s = limit_s("timeout", timeout)
        return await self._driver.run(plans.ended_operations(ids, "all", self._terms, wait_s=wait_s))

    async def wait_any(self, ids: Sequence[str], *, timeout: Duration | None = None) -> tuple[Operation, ...]:
        """Those of several operations that have ended, once one has. Raises `Timeout`, or `NotFound`."""
        wait_s = limit_s("timeout", timeout)
        return await self._driver.run(plans.ended_operations(ids, "any", self._terms, wait_s=wait_s))

    async def result(self, operation_id: str) -> Result:
        """What an operation left behind. `Conflict` if it has not ended, or ended without."""
        return await self._call(operationcalls.result(operation_id))

    async def save_result(self, operation_id: str, path: str | os.PathLike[str]) -> SavedResult:
        """Write what an operation left behind to a file, however large; the file is replaced when all of it is there.

        Raises `OSError` if it cannot be written, else as `result`.
        """
        into = Saving(path)
        call = operationcalls.save_result(operation_id, into)
        try:
            return await self._driver.run(plans.exchange(call, self._terms, into=into))
        except Unwritable as failure:
            raise failure.error from None
        finally:
            into.discard()

    async def cancel(self, operation_id: str) -> Operation:
        """Ask the service to cancel; the operation tells in time what came of it."""
        return await self._call(operationcalls.cancel(operation_id))

    async def _follow(
        self,
        how: Literal["submit", "adopt"],
        request: Mapping[str, object],
        operation_terms: OperationTerms,
        wait: Duration,
        idempotency_key: str | None,
    ) -> Operation:
        wait_s = seconds("wait", wait)
        plan = plans.follow(how, request, operation_terms, self._terms, wait_s=wait_s, idempotency_key=idempotency_key)
        return await self._driver.run(plan)
