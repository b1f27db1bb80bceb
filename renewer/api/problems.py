"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """An error to be answered as it stands. `detail` says what to do about it."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Mapping[str, object]] = (),
        headers: Mapping[str, str] | None = None,
        **extra: object,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})
        self.extra = extra

    def response(self) -> Response:
        """The problem as an HTTP answer."""
        document: dict[str, object] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }
        if self.errors:
            document["errors"] = self.errors
        return JSONResponse(document, self.status, headers=self.headers, media_type="application/problem+json")


async def answer_problem(_request: Request, error: Exception) -> Response:
    """Answer a `Problem`."""
    if not isinstance(error, Problem):
        raise error
    return error.response()


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the router refused: an unknown path, a method that is not allowed."""
    if not isinstance(error, HTTPException):
        raise error
    detail = {
        404: f"nothing is at {request.url.path}; see GET /v1/leases and GET /v1/operations",
        405: f"{request.method} is not allowed here",
    }.get(error.status_code, error.detail)
    return Problem(error.status_code, detail, headers=error.headers).response()


async def answer_crash(_request: Request, _error: Exception) -> Response:
    """Answer a bug of ours without telling its insides."""
    return Problem(500, "an unexpected error; the daemon's log has it").response()
