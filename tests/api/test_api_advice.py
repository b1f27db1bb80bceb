from __future__ import annotations

import pytest

from renewer.api.advice import advice
from renewer.core.model import OperationId, OperationSpec
from renewer.core.operations import Operation
from renewer.core.states import OperationState, is_over

SPEC = OperationSpec(OperationId("op"), "fabric.main", None)


@pytest.mark.parametrize("state", [state for state in OperationState if is_over(state)])
def test_every_end_but_a_good_one_says_what_to_do(state: OperationState) -> None:
    words = advice(Operation(SPEC, 0.0, state=state))
    assert (words is None) == (state is OperationState.SUCCEEDED)


@pytest.mark.parametrize("state", [state for state in OperationState if not is_over(state)])
def test_there_is_nothing_to_do_while_it_runs(state: OperationState) -> None:
    assert advice(Operation(SPEC, 0.0, state=state)) is None


@pytest.mark.parametrize(
    ("state", "error", "word"),
    [
        (OperationState.FAILED, {"errorCode": "Busy", "isRetriable": True}, "anew, after a while"),
        (OperationState.FAILED, {"errorCode": "Wrong", "isRetriable": False}, "Correct what"),
        (OperationState.FAILED, {"isRetriable": "true"}, "Correct what"),
        (OperationState.REJECTED, {"errorCode": "FirstRequestFailed"}, "may or may not have started"),
        (OperationState.REJECTED, {"errorCode": "InvalidItem"}, "did not take it on"),
        (OperationState.SUCCEEDED, {"errorCode": "ResultNotFetched"}, "its result is not here"),
    ],
)
def test_the_error_decides_between_different_advice(state: OperationState, error: dict[str, object], word: str) -> None:
    assert word in (advice(Operation(SPEC, 0.0, state=state, error=error)) or "")
