"""The route that takes on many leases with one request."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, NotRequired

from fastapi import APIRouter, Query
from pydantic import WithJsonSchema
from starlette.responses import Response
from typing_extensions import TypedDict

from renewer.api.documents import JsonResponse
from renewer.api.models import NewLeases, Waiting
from renewer.api.paging import shown_in_slices
from renewer.api.problems import problem_of, problems
from renewer.api.requests import ApiRequest, ApiRoute, Daemon, IdempotencyKey, idempotency
from renewer.api.views import LeaseView, show_lease
from renewer.api.wanted import while_wanted
from renewer.api.wishes import hold_request, is_settled, owner_is_here
from renewer.errors import RenewerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from renewer.api.control import Control
    from renewer.api.views import Calendar
    from renewer.core.leases import Lease

router = APIRouter(route_class=ApiRoute, default_response_class=JsonResponse, tags=["leases"])


_PROBLEM: Final = {"type": "object", "description": "A problem document, as `Problem` has it."}


class TakenOn(TypedDict):
    """What came of one of several: `lease`, with 201 if it is new and 200 if it was there already; or `problem`."""

    status: int
    lease: NotRequired[LeaseView]
    problem: NotRequired[Annotated[dict[str, Any], WithJsonSchema(_PROBLEM)]]


class TakenOnPage(TypedDict):
    """What came of each, in the order in which they were asked for."""

    items: list[TakenOn]


@router.post("/v1/leases/batch", response_model=TakenOnPage, responses=problems(413, 415, 422))
async def create_leases(
    request: ApiRequest,
    control: Daemon,
    body: NewLeases,
    waiting: Annotated[Waiting, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Keep many locks. With `wait`, the answer is held back until none of the leases is `acquiring`.

    What is wrong with one does not keep the others from being taken on. Asked again with the same Idempotency-Key, it
    finds those that it made.
    """
    whole = idempotency(request, idempotency_key, body)
    # No header can carry a line break: nobody else's key is like that.
    keys = [None if whole is None else replace(whole, key=f"{whole.key}\n{n}") for n in range(len(body.leases))]
    answers = await control.hold_all([hold_request(wish, key) for wish, key in zip(body.leases, keys, strict=True)])
    # Those who asked may wait for long, and what they wrote takes more memory than the leases that it became.
    body.leases.clear()
    if waiting.wait:
        leases = [answer[0] for answer in answers if not isinstance(answer, RenewerError)]
        # One that was forgotten meanwhile is nobody's any longer.
        leases = [lease for lease in leases if control.lease(lease.spec.id) is lease]
        with ExitStack() as owners:
            for lease in leases:
                owners.enter_context(owner_is_here(control, lease))
            await while_wanted(request, partial(_all_settled, control, leases, waiting.wait))
    await control.settled()
    return JsonResponse(b'{"items":' + await shown_in_slices(answers, _show, control.clock) + b"}")


async def _all_settled(control: Control, leases: Sequence[Lease], timeout_s: float) -> None:
    end = control.clock.now() + timeout_s
    for lease in leases:
        if not is_settled(lease):
            await control.wait_lease(lease.spec.id, is_settled, max(0.0, end - control.clock.now()))


def _show(answer: tuple[Lease, bool] | RenewerError, when: Calendar) -> dict[str, Any]:
    if isinstance(answer, RenewerError):
        problem = problem_of(answer)
        return {"status": problem.status_code, "problem": problem.document()}
    lease, created = answer
    return {"status": 201 if created else 200, "lease": show_lease(lease, when)}
