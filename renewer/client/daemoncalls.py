"""Calls about the daemon itself and what happens in it. See `renewer.client.wire.Call`."""

from __future__ import annotations

from renewer.client.daemonstatus import Status, status_of
from renewer.client.leasecalls import RELEASE_S, release
from renewer.client.operationcalls import forget_operation
from renewer.client.options import Names
from renewer.client.requesting import get, post, several
from renewer.client.wire import STREAM_TYPE, Answer, Call, Request, check


def status() -> Call[Status]:
    """The daemon itself."""
    return Call(get("/v1/status"), _read_status)


def drain(*, enabled: bool, park: bool) -> Call[Status]:
    """Take no new work, or take it again."""
    request = post("/v1/drain", {"enabled": enabled, "park": park}, extra_s=RELEASE_S if park else 0.0)
    return Call(request, _read_status)


def forget(any_id: str) -> Call[None]:
    """Drop what is known of a lease (it is released) or of an operation (it is no longer followed)."""
    return forget_operation(any_id) if any_id.startswith("op-") else release(any_id, forget=True)


def events(types: Names, subjects: Names, after: str | None) -> Request:
    """The stream of what happens, from after the event with this id."""
    headers = {"Accept": STREAM_TYPE}
    if after is not None:
        headers["Last-Event-ID"] = after
    return Request("GET", "/v1/events", [*several("type", types), *several("subject", subjects)], headers)


def _read_status(answer: Answer) -> Status:
    return status_of(check(answer).json())
