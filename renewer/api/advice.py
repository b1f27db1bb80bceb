"""What to do about an operation that ended other than well, in a sentence for whoever waits for it.

What went wrong is in the operation's `error`, most often the service's own document; here is what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from renewer.core.states import OperationState

if TYPE_CHECKING:
    from renewer.core.operations import Operation

_ADVICE: Mapping[OperationState, str] = {
    OperationState.FAILED: "Correct what the service's error names, then start the operation anew; its support will "
    "ask for the requestId.",
    OperationState.CANCELED: "It did not run to its end. Start it anew if it is still wanted.",
    OperationState.EXPIRED: "The service has forgotten it. Look at the resource itself for what came of it.",
    OperationState.TIMED_OUT: "It may still be running. Adopt it again, with a longer deadline, to go on following it.",
    OperationState.UNPOLLABLE: "Nothing tells of its end, and it may still be running. Look at the resource itself.",
    OperationState.REJECTED: "The service did not take it on. Correct what its error names, then send it again.",
}
_PASSING = "The service calls this failure a passing one: start the operation anew, after a while."
_UNSURE = "It may or may not have started. Look at the service before it is sent again."
_NO_RESULT = "It succeeded, but its result is not here. Fetch it from the service, or look at the resource itself."


def advice(operation: Operation) -> str | None:
    """What to do now; None while it runs, and when nothing is left to do."""
    error = operation.error or {}
    match operation.state:
        case OperationState.SUCCEEDED:
            return _NO_RESULT if error else None
        case OperationState.FAILED if _is_passing(error):
            return _PASSING
        case OperationState.REJECTED if error.get("errorCode") == "FirstRequestFailed":
            return _UNSURE
        case state:
            return _ADVICE.get(state)


def _is_passing(error: Mapping[str, Any]) -> bool:
    """Whether the service says so (`isRetriable`, Microsoft Fabric's error documents)."""
    return error.get("isRetriable") is True
