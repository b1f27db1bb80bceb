"""What becomes of a message: what may be asked for, how it is said over a link, and what the broker's answer means.

Over a link an outcome is a delivery state (azure-servicebus 7.15 behaviour, with the properties where the official .NET
client puts them): complete is `accepted`, abandon and defer are `modified`, dead-letter is `rejected` with an error
whose info has reason and description. The broker answers with the state that it applied; `rejected` with an error of
another kind says that it did nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from renewer.amqp import Accepted, AmqpArray, AmqpError, Described, Modified, Rejected, encode
from renewer.errors import AmqpProtocolError, RemoteError, TransientError, UsageError
from renewer.targets.servicebus.verdicts import settling_refused

if TYPE_CHECKING:
    from renewer.amqp import DeliveryState
    from renewer.ports import Settlement

MAX_TEXT: Final = 4096
"""Characters that the reason and the description of a dead letter may have (Service Bus quotas)."""

DEAD_LETTER: Final = "com.microsoft:dead-letter"

_REASON: Final = "DeadLetterReason"
_DESCRIPTION: Final = "DeadLetterErrorDescription"
_COMPOUND: Final = (list, tuple, dict, AmqpArray, Described)


def check_settlement(settlement: Settlement) -> None:
    """Raise UsageError if this cannot be asked for of any message. Values are not repeated: they may be secrets."""
    if settlement.how != "dead-letter" and (settlement.reason is not None or settlement.description is not None):
        raise UsageError(f"reason and description are for dead-letter; {settlement.how} takes none")
    if settlement.how == "complete" and settlement.properties:
        raise UsageError("properties are for abandon, defer and dead-letter; of a completed message nothing is left")
    for name, text in (("reason", settlement.reason), ("description", settlement.description)):
        if text is not None and len(text) > MAX_TEXT:
            raise UsageError(f"{name}: has {len(text)} characters; the broker takes {MAX_TEXT}")
    for key, value in settlement.properties.items():
        if not isinstance(key, str) or not key:
            raise UsageError("properties: each needs a name")
        if isinstance(value, _COMPOUND):
            raise UsageError(f"properties: {key[:100]!r} is a list or a map; application properties are single values")
        try:
            encode(value)
        except AmqpProtocolError:
            raise UsageError(
                f"properties: {key[:100]!r} is a {type(value).__name__} that AMQP has no type for, or is out of range"
            ) from None


def delivery_state(settlement: Settlement) -> DeliveryState:
    """What is said over the link."""
    properties: dict[Any, Any] = dict(settlement.properties)
    match settlement.how:
        case "complete":
            return Accepted()
        case "abandon":
            return Modified(delivery_failed=True, undeliverable_here=False, message_annotations=properties or None)
        case "defer":
            return Modified(delivery_failed=True, undeliverable_here=True, message_annotations=properties or None)
        case "dead-letter":
            words = {_REASON: settlement.reason, _DESCRIPTION: settlement.description}
            properties.update((name, text) for name, text in words.items() if text is not None)
            return Rejected(AmqpError(DEAD_LETTER, settlement.description, properties))


def refusal_in(answer: DeliveryState | None, asked: DeliveryState) -> RemoteError | None:
    """Why the broker did not do what it was asked to; None if it did.

    LeaseLostError if the lock is gone, that of the message or, by its condition, that of the session.
    """
    if isinstance(answer, Rejected) and answer.error is not None:
        if isinstance(asked, Rejected) and answer.error.condition == DEAD_LETTER:
            return None
        return settling_refused(answer.error)
    if answer is None or type(answer) is type(asked):
        # Without a state the broker has settled as it was told (AMQP 1.0 part 2.6.12).
        return None
    return TransientError(
        f"the broker settled the message as {type(answer).__name__.lower()}, which is not what it was asked to do",
        kind="server",
    )
