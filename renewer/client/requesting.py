"""How a request is written: path, parameters, body. Every function raises `BadRequest` for what cannot be written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from renewer.client.errors import BadRequest
from renewer.client.options import Names, limit_s
from renewer.client.quantities import Duration
from renewer.client.wire import JSON_TYPE, Request

Params = list[tuple[str, str]]
"""Parameters of a query, in order."""


def get(path: str, params: Sequence[tuple[str, str]] = (), *, extra_s: float = 0.0) -> Request:
    """A request that changes nothing."""
    return Request("GET", path, params, extra_s=extra_s)


def post(
    path: str,
    body: Mapping[str, object],
    *,
    params: Sequence[tuple[str, str]] = (),
    idempotency_key: str | None = None,
    extra_s: float = 0.0,
) -> Request:
    """A request with a JSON body. With the same `idempotency_key` it may be sent twice and is carried out once."""
    try:
        content = json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        # The text of the error may quote what could not be written.
        raise BadRequest(f"the request cannot be written as JSON ({type(error).__name__}): give plain values") from None
    headers = {"Content-Type": JSON_TYPE}
    if idempotency_key is not None:
        headers["Idempotency-Key"] = idempotency_key
    return Request("POST", path, params, headers, content, extra_s)


def lease_path(lease_id: str, rest: str = "") -> str:
    """Where a lease is, or something of it."""
    return f"/v1/leases/{segment('id of the lease', lease_id)}{rest}"


def operation_path(operation_id: str, rest: str = "") -> str:
    """Where an operation is, or something of it."""
    return f"/v1/operations/{segment('id of the operation', operation_id)}{rest}"


def segment(what: str, text: str) -> str:
    """`text` as one segment of a path."""
    if not text or text in {".", ".."}:
        raise BadRequest(f"the {what} is empty")
    return quote(text, safe="")


def waiting(wait_s: float) -> Params:
    """For how long the answer may be held back."""
    return [("wait", f"{wait_s:.3f}")] if wait_s else []


def epoch_only(epoch: int | None) -> Params:
    """Only if the lease is in this epoch; None or 0: in any."""
    return [("epoch", str(epoch))] if epoch else []


def several(name: str, values: Names) -> Params:
    """One parameter for each value."""
    return [(name, value) for value in ((values,) if isinstance(values, str) else values)]


def given(**values: str | int | None) -> Params:
    """Those that are not None."""
    return [(name, str(value)) for name, value in values.items() if value is not None]


def labelled(labels: Mapping[str, str] | None) -> Params:
    """Only what has all these labels."""
    return [("label", f"{name}:{value}") for name, value in (labels or {}).items()]


def body_of(**members: object) -> dict[str, object]:
    """A JSON object of the members that are not None."""
    return {name: value for name, value in members.items() if value is not None}


def span(name: str, value: Duration | None) -> float | None:
    """A span of time as it stands in a body."""
    return limit_s(name, value)
