"""What an attempt asks of its target, and what came of it: an event for the core, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import anyio
import structlog

from renewer.core.effects import Attempt, StartAcquire, StartFetch, StartPoll, StartRelease, StartRenew, StartSubmit
from renewer.core.events import (
    Event,
    LeaseAttemptFailed,
    LeaseGranted,
    LeaseSettled,
    OperationAnswered,
    OperationAttemptFailed,
    ResultFetched,
)
from renewer.core.model import Failure, OperationId, PollAnswer, Succeeded, Terminal, Transient
from renewer.core.states import LossReason, MessageFate
from renewer.errors import LeaseLostError, MessageSettledError, TransientError

if TYPE_CHECKING:
    from renewer.daemon.keeping import Keeper
    from renewer.ports import LeaseTarget, OperationTarget, PendingRenewal

KINDS: Final[dict[type, str]] = {
    StartRenew: "renew",
    StartAcquire: "acquire",
    StartSubmit: "submit",
    StartPoll: "poll",
    StartFetch: "fetch",
}
"""What attempts are called in metrics and in the log."""

NO_ANSWER: Final = Transient("timeout", "no answer in time")

_RELEASE_TIMEOUT_S = 5.0
"""How long a release may take; the lock ends by itself if the broker does not answer."""

_log = structlog.get_logger("renewer.attempts")


class Asking:
    """Asks targets by their names in the configuration; what is put into the mappings later is found."""

    def __init__(
        self, lease_targets: Mapping[str, LeaseTarget], operation_targets: Mapping[str, OperationTarget], keeper: Keeper
    ) -> None:
        self._lease_targets = lease_targets
        self._operation_targets = operation_targets
        self._keeper = keeper

    async def outcome(self, effect: Attempt, renewed: PendingRenewal | None) -> Event:
        """Carry it out, or finish what was asked for as `renewed`."""
        try:
            return await self._ask(effect, renewed)
        except TransientError as error:
            return failed(effect, Transient(error.kind, str(error), error.retry_after_s))
        except LeaseLostError as error:
            return failed(effect, Terminal(LossReason(error.reason), str(error)))
        except Exception as error:
            # A bug of ours must cost one attempt, not the daemon and every other lock with it.
            _log.exception("attempt raised an unexpected error", kind=KINDS[type(effect)], id=effect.spec.id)
            return failed(effect, Transient("garbage", f"unexpected {type(error).__name__}"))

    async def _ask(self, effect: Attempt, renewed: PendingRenewal | None) -> Event:
        match effect:
            case StartRenew(spec, epoch) | StartAcquire(spec, epoch):
                try:
                    if renewed is not None:
                        grant = await renewed.finish()
                    elif isinstance(effect, StartRenew):
                        grant = await self._lease_target(spec.target).renew(spec, epoch)
                    else:
                        grant = await self._lease_target(spec.target).acquire(spec, epoch)
                except MessageSettledError as error:
                    return LeaseSettled(spec.id, epoch, MessageFate(error.fate))
                return LeaseGranted(spec.id, epoch, effect.attempt, grant)
            case StartSubmit(spec, attempt):
                target = self._operation_target(spec.account)
                await self._keeper.note_submitting(spec.id)
                return self._answered(spec.id, attempt, await target.submit(spec))
            case StartPoll(spec, ticket, attempt):
                target = self._operation_target(spec.account)
                await self._keeper.cover_poll()
                return self._answered(spec.id, attempt, await target.poll(spec, ticket))
            case StartFetch(spec, ticket, attempt):
                result = await self._operation_target(spec.account).fetch(spec, ticket)
                return ResultFetched(spec.id, attempt, self._keeper.keep_result(spec.id, result))

    async def release(self, effect: StartRelease) -> None:
        """Give the lock back; where that is not confirmed in time, it ends by itself."""
        spec = effect.spec
        try:
            with anyio.move_on_after(_RELEASE_TIMEOUT_S):
                await self._lease_target(spec.target).release(spec, effect.epoch)
        except (TransientError, LeaseLostError) as error:
            _log.warning("lease release not confirmed", lease=spec.id, detail=str(error))
        except Exception:
            _log.exception("release raised an unexpected error", lease=spec.id)

    def _answered(self, operation_id: OperationId, attempt: int, answer: PollAnswer) -> Event:
        if isinstance(answer, Succeeded) and answer.result is not None:
            answer = replace(answer, result=self._keeper.keep_result(operation_id, answer.result))
        return OperationAnswered(operation_id, attempt, answer)

    def _lease_target(self, name: str) -> LeaseTarget:
        target = self._lease_targets.get(name)
        if target is None:
            raise TransientError(f"[{name}] is not in the configuration any longer; put it back", kind="network")
        return target

    def _operation_target(self, name: str) -> OperationTarget:
        target = self._operation_targets.get(name)
        if target is None:
            # Unreachable, so that a first request, which was not sent, may be sent when the account is back.
            raise TransientError(f"[{name}] is not in the configuration any longer; put it back", kind="unreachable")
        return target


def failed(effect: Attempt, failure: Failure) -> Event:
    """What to tell the core of an attempt that failed."""
    match effect:
        case StartAcquire() | StartRenew():
            return LeaseAttemptFailed(effect.spec.id, effect.epoch, effect.attempt, failure)
        case _:
            if isinstance(failure, Terminal):
                failure = Transient("garbage", failure.detail)
            return OperationAttemptFailed(effect.spec.id, effect.attempt, failure)
