"""Settles the messages that were received from one session, and knows which answers have come and which have not.

A message is settled over the link that it came by, and through `$management` where that is not to be had: a message
that was deferred before came by no link, some outcomes do not fit into a frame, and a broker may not answer over the
link. As long as an answer is missing nobody can say whether a message is settled, and that is what is told. Asking
again is safe: an answer that came meanwhile counts for who asks the same once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import anyio

from renewer.core.states import LossReason
from renewer.errors import AmqpProtocolError, ConflictError, LeaseLostError, RemoteError, TransientError, UsageError
from renewer.targets.servicebus.deliveries import settled_already
from renewer.targets.servicebus.locktokens import without_token
from renewer.targets.servicebus.managementops import peek_messages, read_messages, settle_message
from renewer.targets.servicebus.messages import read_message
from renewer.targets.servicebus.settling import check_settlement, delivery_state, refusal_in
from renewer.targets.servicebus.verdicts import (
    MESSAGE_LOCK_LOST,
    MESSAGE_NOT_FOUND,
    TOO_LARGE,
    copy_of,
    is_unusable,
)

if TYPE_CHECKING:
    from uuid import UUID

    from renewer.amqp import Delivery, DeliveryState
    from renewer.errors import RenewerError
    from renewer.ports import Settlement
    from renewer.targets.servicebus.deliveries import Deliveries, Unsettled
    from renewer.targets.servicebus.envelope import Reply, Template
    from renewer.targets.servicebus.sessionlink import SessionLink

PATIENCE_S: Final = 4.0
"""How long the broker may take to answer over the link, before it is asked through its management node."""

REQUEST_TIMEOUT_S: Final = 4.0
"""How long it may take there."""


class Session(Protocol):
    """The session that the messages are of."""

    @property
    def end_error(self) -> RenewerError | None:
        """What whoever waits is to be told once it was lost or released; None while it is held."""
        ...

    async def ask(self, ask: Template, too_late: str, *, timeout_s: float, secret: UUID) -> Reply:
        """Send a request for it. LeaseLostError when the broker says that a lock is gone; no error has the secret."""
        ...

    def lock_lost(self, detail: str) -> None:
        """The broker says that the session is not ours any longer."""
        ...


class Settler:
    """Settles the messages of one session."""

    def __init__(self, session: Session, link: SessionLink, deliveries: Deliveries) -> None:
        self._session = session
        self._link = link
        self._deliveries = deliveries

    async def settle(self, number: int, settlement: Settlement) -> None:
        """Settle the message with that number as its handle has it. The errors are those of `LeaseTarget.settle`."""
        check_settlement(settlement)
        message = self._deliveries.find(number, settlement.how)
        if message is None:
            return
        message.is_busy = True
        message.asked_as = {settlement.how} | (message.asked_as if message.is_asked else set())
        try:
            await self._over_link(message, settlement)
            if self._deliveries.is_open(message):
                await self._by_request(message, settlement)
        finally:
            message.is_busy = False
            if message.answered.is_set() and self._deliveries.is_open(message):
                # It came in after all, and whoever waited for it has gone.
                self._note_answer(message)

    def on_updated(self, delivery: Delivery, state: DeliveryState | None) -> bool:
        """The broker settled a message over the link; whether it is one of those here."""
        message = self._deliveries.by_delivery(delivery)
        if message is None:
            return False
        if message.said is not None:
            message.answer = state
            message.answered.set()
            if not message.is_busy:
                self._note_answer(message)
        elif message.is_busy or message.is_asked:
            # The answer to what was asked by request is yet to come.
            self._deliveries.leave_link(message)
        else:
            self._deliveries.take_back(message)
        return True

    # Over the link --------------------------------------------------------------------------------------------------

    async def _over_link(self, message: Unsettled, settlement: Settlement) -> None:
        """Settle it, if it can be done here and the broker answers; an answer that says no is raised."""
        if message.delivery is None or message.said is not None:
            return
        state = delivery_state(settlement)
        try:
            self._link.settle(message.delivery, state)
        except AmqpProtocolError as error:
            # Too large for a frame, or with a name that is no symbol: a request has room for it.
            if message.token is None:
                raise UsageError("properties: too large, or with a name that is not ASCII") from error
            return
        message.said, message.said_how, message.is_asked = state, settlement.how, True
        with anyio.move_on_after(PATIENCE_S):
            await message.answered.wait()
        self._check_not_over()
        if message.answered.is_set():
            refusal = self._take_answer(message, settlement)
            if refusal is not None:
                self._raise_refusal(message, refusal)

    def _take_answer(self, message: Unsettled, settlement: Settlement) -> RemoteError | None:
        """Take in what the broker answered over the link: why it was not done, or None."""
        assert message.said is not None  # noqa: S101 - it is what was answered
        error = refusal_in(message.answer, message.said)
        if error is None:
            self._deliveries.close(message, message.said_how)
            if message.said_how != settlement.how:
                raise settled_already(message.said_how)
        else:
            self._refused_over_link(message)
        return error

    def _note_answer(self, message: Unsettled) -> None:
        """The same for nobody in particular."""
        assert message.said is not None  # noqa: S101 - it is what was answered
        error = refusal_in(message.answer, message.said)
        if error is None:
            self._deliveries.close(message, message.said_how, is_heard=False)
            return
        self._refused_over_link(message)
        if _is_of_message(error):
            self._deliveries.take_back(message)
        elif _is_of_session(error):
            self._session.lock_lost(_redacted(message, str(error)))

    def _refused_over_link(self, message: Unsettled) -> None:
        """It was not done, and the link knows the message no more: what comes next must be a request."""
        self._deliveries.leave_link(message)
        message.said, message.is_asked = None, False
        message.answered = anyio.Event()

    # By request -----------------------------------------------------------------------------------------------------

    async def _by_request(self, message: Unsettled, settlement: Settlement) -> None:
        link = self._link
        if message.token is None:
            raise _unknown("the broker does not answer over the link")
        ask = settle_message(
            link.entity,
            message.token,
            settlement,
            timeout_s=REQUEST_TIMEOUT_S,
            session_id=link.session_id or "",
            link_name=link.name,
        )
        was_asked, message.is_asked = message.is_asked, True
        try:
            await self._session.ask(
                ask, "the broker does not answer", timeout_s=REQUEST_TIMEOUT_S, secret=message.token
            )
        except RemoteError as error:
            if was_asked and _is_of_message(error) and not message.answered.is_set():
                was_done = await self._look(message)
                if was_done:
                    return
                was_asked = was_done is None
            self._request_failed(message, settlement, error, was_asked=was_asked)
        else:
            self._deliveries.close(message, settlement.how)

    async def _look(self, message: Unsettled) -> bool | None:
        """Look at a message whose lock is over: was it settled as it was asked to be? None if that cannot be told.

        Nobody else can have it while the session is ours. One that is found to be settled is closed.
        """
        number, link = message.sequence_number, self._link
        if number is None or message.token is None or len(message.asked_as) != 1:
            return None
        ask = peek_messages(
            link.entity,
            from_number=number,
            count=1,
            timeout_s=REQUEST_TIMEOUT_S,
            session_id=link.session_id or "",
            link_name=link.name,
        )
        try:
            reply = await self._session.ask(ask, "no answer", timeout_s=REQUEST_TIMEOUT_S, secret=message.token)
            found = [read_message(payload) for payload, _ in read_messages(reply)]
        except RemoteError as error:
            if not isinstance(error, LeaseLostError) or error.condition != MESSAGE_NOT_FOUND:
                return None
            found = []
        if not self._deliveries.is_open(message):
            return None
        state = next((one.state for one in found if one.sequence_number == number), None)
        (how,) = message.asked_as
        if (how, state) in _DONE:
            self._deliveries.close(message, how)
            return True
        return None if state is None else False

    def _request_failed(
        self, message: Unsettled, settlement: Settlement, error: RemoteError, *, was_asked: bool
    ) -> None:
        """Raise what that means, unless it was done over the link meanwhile."""
        if was_asked or not _is_definite(error):
            self._check_not_over()
        if message.answered.is_set() and self._session.end_error is None:
            if self._take_answer(message, settlement) is None:
                return
            was_asked = False
        if was_asked or not _is_definite(error):
            # Whatever it says of the second time, the first one may have done it.
            message.is_asked = True
            raise _unknown(str(error), error) from None
        message.is_asked = False
        if error.condition == TOO_LARGE:
            raise UsageError("properties: larger than the broker takes, all together") from None
        self._raise_refusal(message, error)

    def _check_not_over(self) -> None:
        """Raise what the end of the session means for a message that was asked to be settled."""
        error = self._session.end_error
        if isinstance(error, LeaseLostError):
            raise LeaseLostError(f"the session was lost before the broker confirmed it; {_UNSURE}", reason=error.reason)
        if error is not None:
            raise ConflictError(f"the session was released before the broker confirmed it; {_UNSURE}")

    def _raise_refusal(self, message: Unsettled, error: RemoteError) -> NoReturn:
        """The broker did not do it, and nobody else has."""
        error = copy_of(error, text=_redacted(message, str(error)))
        if _is_of_message(error):
            self._deliveries.take_back(message)
            raise copy_of(error, text=f"{error}; {_AGAIN}") from None
        if _is_of_session(error):
            self._session.lock_lost(str(error))
            raise copy_of(error, text=f"{error}; {_AGAIN}") from None
        raise error from None


_UNKNOWN: Final = "it is not known whether the message is settled; ask again, the same way and with the same handle"
_UNSURE: Final = "if the message is not settled, it will be delivered again"
_AGAIN: Final = "the message will be delivered again"
_DONE: Final = (("complete", None), ("dead-letter", None), ("defer", "deferred"), ("abandon", "active"))
_NOT_DONE: Final = ("busy", "throttled", "unauthorized", "unreachable", "refused", "not_found")


def _is_of_message(error: RemoteError) -> bool:
    """Whether the broker says that it is the message's own lock that is gone."""
    return isinstance(error, LeaseLostError) and error.condition in (MESSAGE_LOCK_LOST, MESSAGE_NOT_FOUND)


def _is_of_session(error: RemoteError) -> bool:
    """Whether it says that the session's lock is gone, and that of the message with it."""
    return isinstance(error, LeaseLostError) and error.reason == LossReason.EXPIRED and not _is_of_message(error)


def _is_definite(error: RemoteError) -> bool:
    """Whether it says that the message is not settled, rather than nothing about it."""
    if isinstance(error, TransientError):
        return error.kind in _NOT_DONE or error.condition == TOO_LARGE or is_unusable(error.condition)
    return isinstance(error, LeaseLostError)


def _redacted(message: Unsettled, text: str) -> str:
    return text if message.token is None else without_token(message.token, text)


def _unknown(text: str, cause: RemoteError | None = None) -> TransientError:
    condition = None if cause is None else cause.condition
    return TransientError(f"{text}: {_UNKNOWN}", kind="timeout", condition=condition, is_unknown=True)
