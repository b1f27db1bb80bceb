"""Operations as the API sees them: registering, looking, waiting, results, cancelling."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from renewer.core.events import OperationRegistered
from renewer.core.model import Succeeded
from renewer.core.states import OperationState, is_over
from renewer.daemon.admission import Admission
from renewer.daemon.patience import in_time
from renewer.daemon.registrar import check_same
from renewer.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from renewer.api.control import FollowRequest
    from renewer.core.model import OperationId, Result
    from renewer.core.operations import Operation


class OperationControl(Admission):
    """The part of `renewer.api.Control` that is about operations."""

    def operations(self) -> Iterable[Operation]:
        """All operations, in the order of their numbers, in which they were registered."""
        return self._supervisor.scheduler.operations()

    def operation(self, operation_id: OperationId) -> Operation | None:
        """One operation, if known."""
        return self._supervisor.scheduler.operation(operation_id)

    async def follow(self, request: FollowRequest) -> tuple[Operation, bool]:
        """Register an operation; its first request, if it is ours to send, is on its way when this returns."""
        asked_before = self.registrar.operation_asked_before(request.idempotency)
        found = None if asked_before is None else self.operation(asked_before)
        if found is not None:
            check_same(request.idempotency, found.spec)
            await self._found(found.spec.id)
            return found, False
        spec, first = self.registrar.operation(request)
        self._admit(self._supervisor.scheduler.living_operations, self.limits.operations, "max_operations")
        if isinstance(first, Succeeded) and first.result is not None:
            first = replace(first, result=self._keeper.keep_result(spec.id, first.result))
        self.registrar.note(spec)
        self._supervisor.post(OperationRegistered(spec, first))
        await self._stored(spec)
        return self._need_operation(spec.id), True

    async def wait_operations(
        self,
        operation_ids: Sequence[OperationId],
        done: Callable[[Operation], bool],
        timeout_s: float,
        *,
        until: Literal["any", "all"] = "all",
    ) -> None:
        """Return when `done` holds for one, or for all, of those that are known, or when the time is over."""

        def is_done() -> bool:
            known = [found for name in operation_ids if (found := self.operation(name)) is not None]
            return not known or (any if until == "any" else all)(map(done, known))

        await self._waiting.until(operation_ids, is_done, timeout_s)

    async def result(self, operation_id: OperationId) -> Result | None:
        """The result, its body in `body` or in `file`, which is to be opened at once; None while there is none."""
        operation = self._need_operation(operation_id)
        if operation.result is None or not operation.result.size:
            return operation.result
        return await self._keeper.result(operation_id)

    async def cancel(self, operation_id: OperationId) -> None:
        """Ask the service to cancel; the operation's state tells, in time, what came of it."""
        operation = self._need_operation(operation_id)
        if is_over(operation.state) or operation.state is OperationState.FETCHING:
            raise ConflictError(f"the operation is {operation.state}: there is nothing left to cancel")
        if operation.state is OperationState.ACCEPTED:
            raise ConflictError("the operation's first request is not answered yet; wait for it, and cancel then")
        account = self.registrar.accounts.get(operation.spec.account)
        if account is None:
            raise ConflictError(f"[{operation.spec.account}] is not in the configuration any longer; put it back")
        async with in_time("it is not known whether the service was asked to cancel"):
            await account.target.cancel(operation.spec, operation.ticket)

    async def forget_operation(self, operation_id: OperationId) -> None:
        """Stop following, and drop what is known of it, the result too."""
        self._forget(self._need_operation(operation_id).spec)
        await self._ended(operation_id)

    def _need_operation(self, operation_id: OperationId) -> Operation:
        operation = self.operation(operation_id)
        if operation is None:
            raise KeyError(operation_id)
        return operation
