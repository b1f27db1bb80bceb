"""One answer of a service, together with where it came from and what was known before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from renewer.core.model import Result, StillRunning
from renewer.errors import TransientError
from renewer.targets.azure.members import member_of
from renewer.targets.azure.urls import RefusedUrlError, place_of, resolve
from renewer.targets.azure.words import is_known
from renewer.targets.http import STATE_BODY_MAX, is_json
from renewer.targets.rest.documents import (
    STATUS_MAX,
    first_moment,
    inner_object,
    object_or_none,
    percent,
    state_object,
)
from renewer.targets.rest.results import first_result_of, result_of, result_too_large
from renewer.targets.retryafter import retry_after_s
from renewer.targets.spool import SpooledFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.ports import Clock
    from renewer.targets.azure.members import Outline
    from renewer.targets.azure.tickets import Ticket
    from renewer.targets.http import Answer
    from renewer.targets.rest.account import AccountOptions
    from renewer.targets.rest.places import Place

_STARTED = ("startTime", "createdDateTime", "createdTime", "createdDateTimeUtc")
_UPDATED = ("lastUpdatedDateTime", "lastActionDateTime", "lastUpdatedTime", "lastUpdatedDateTimeUtc")
_JSON = "application/json"
_PROPERTIES = "properties"
OUTLINED = frozenset(
    {"status", "provisioningState", "error", "resourceLocation", "percentComplete", *_STARTED, *_UPDATED}
)
"""The members that tell of an operation; of a large document no others are looked at."""


@dataclass(frozen=True)
class Reply:
    """The answer of `place` to `method`. `ticket` has the cookies as they stand after it.

    `cut` says that the answer's body is larger than allowed, and was left. A body in a file has an `outline` if it can
    tell of the operation, and `inner_result` is the JSON text of its `result`.
    """

    answer: Answer
    method: str
    place: Place
    ticket: Ticket
    options: AccountOptions
    clock: Clock
    cut: bool = False
    outline: Outline | None = None
    inner_result: bytes | SpooledFile | None = None

    @property
    def what(self) -> str:
        """What errors call the request."""
        return f"{self.method} {self.place}"

    @property
    def retry_after_s(self) -> float | None:
        """How long the service asks us to wait."""
        return retry_after_s(self.answer.headers, self.clock)

    @cached_property
    def document(self) -> Mapping[str, object] | None:
        """The JSON object that was answered; None if it is none."""
        if self.outline is not None:
            return self.outline.members
        return object_or_none(self.answer) if self._is_readable else None

    def state(self) -> Mapping[str, object]:
        """The JSON object that was answered. Raises `TransientError` if it is none."""
        if self.document is not None:
            return self.document
        if self._is_readable:
            return state_object(self.answer, self.what)
        raise TransientError(
            f"{self.what}: the state document is too large to be read, or no JSON object",
            kind="garbage",
            condition="BodyTooLarge",
        )

    def refers_to(self, reference: str) -> str:
        """The URL that the answer means by `reference`. Raises `RefusedUrlError` if nothing may be sent there."""
        url = resolve(self.place, reference)
        place_of(self.options, url)
        return url

    def result(self) -> Result:
        """The answer's body, as the operation's result. Raises `TransientError` for JSON that is not whole."""
        return self._too_large() or result_of(self.answer, self.what)

    def first_result(self) -> Result:
        """The same for an answer to a first request, which is not sent again for the sake of its body."""
        return self._too_large() or first_result_of(self.answer)

    def document_result(self) -> Result:
        """The answer's body, known to be a JSON object whatever the service calls it, as the operation's result."""
        content_type = self.answer.header("content-type")
        content_type = content_type if is_json(content_type) else _JSON
        return self._too_large() or _json_result(self.answer.spooled or self.answer.body, content_type)

    def monitor_result(self) -> Result:
        """What a status monitor itself says: its `result` (Azure REST API guidelines), or all of it."""
        if self.inner_result is not None:
            return self._too_large() or _json_result(self.inner_result, _JSON)
        if self.outline is None and self.state().get("result") is not None:
            text = member_of(self.answer.body, "result")
            if text is not None:
                return self._too_large() or _json_result(text, _JSON)
        return self.document_result()

    def still_running(self, status: str | None, ticket: Ticket, state: Mapping[str, object] | None) -> StillRunning:
        """Not yet: to be asked again with `ticket`."""
        done = percent(state)
        return StillRunning(
            status=None if status is None else status[:STATUS_MAX],
            recognised=status is None or is_known(status),
            retry_after_s=self.retry_after_s,
            percent_complete=done if done is not None else percent(inner_object(state, _PROPERTIES)),
            ticket=ticket,
            started_at=first_moment(state, *_STARTED),
            updated_at=first_moment(state, *_UPDATED),
        )

    def moved(self, header: str) -> Ticket:
        """The ticket to go on with: the state is told where `header` says, if it says anything.

        Raises `TransientError` for a URL that nothing may be sent to; the old place is asked again then.
        """
        named = self.answer.header(header)
        if named is None:
            return self.ticket
        try:
            return replace(self.ticket, poll=self.refers_to(named))
        except RefusedUrlError as error:
            raise TransientError(
                f"{self.what}: the state has moved, but {error}",
                kind="unauthorized",
                retry_after_s=self.retry_after_s,
                condition=error.code,
            ) from None

    def close(self) -> None:
        """Remove what came in files and is nobody's result."""
        for body in (self.answer.spooled, self.inner_result):
            if isinstance(body, SpooledFile):
                body.remove()

    @property
    def _is_readable(self) -> bool:
        return not self.cut and self.answer.spooled is None and self.answer.size <= STATE_BODY_MAX

    def _too_large(self) -> Result | None:
        limit = self.options.max_result_bytes
        if not self.cut and self.answer.size <= limit:
            return None
        return result_too_large(limit, self.options.name)


def provisioning_state(document: Mapping[str, object] | None) -> object:
    """The provisioningState of a resource: below its properties, or at its top; None if it has none."""
    state = inner_object(document, _PROPERTIES).get("provisioningState")
    if state is None and document is not None:
        state = document.get("provisioningState")
    return state or None


def _json_result(body: bytes | SpooledFile, content_type: str | None) -> Result:
    if isinstance(body, SpooledFile):
        return Result("json", content_type, stored_size=body.size, file=str(body.take_over()))
    return Result("json", content_type, body)
