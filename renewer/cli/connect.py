"""Talking to the daemon, and saying in one line why it cannot be reached or what it objected to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

from renewer.cli.exitcodes import CommandError, ExitCode
from renewer.cli.output import printable
from renewer.cli.words import span
from renewer.client import (
    AddressError,
    BadRequest,
    Client,
    NotAllowed,
    NotFound,
    ProtocolError,
    Refused,
    RemoteFailed,
    RenewerApiError,
    ServerError,
    Timeout,
    Unavailable,
)

if TYPE_CHECKING:
    from renewer.cli.call import Kind
    from renewer.cli.endpoint import Endpoint


@contextmanager
def connected(endpoint: Endpoint, kind: Kind | None = None, about: str = "") -> Iterator[Client]:
    """A client of the daemon there; what it raises is told as `CommandError`, about the thing with this id."""
    with Client(endpoint.url, key=endpoint.key) as client:
        try:
            yield client
        except RenewerApiError as error:
            raise told(error, endpoint, kind, about) from error


def told(
    error: RenewerApiError, endpoint: Endpoint | None = None, kind: Kind | None = None, about: str = ""
) -> CommandError:
    """What the client raised, in one line, with the exit code for it.

    `kind` and `about` say which lease or operation the question was about.
    """
    text = printable(str(error))
    if _is_somebody_else(error):
        where = f"{endpoint.url}: " if endpoint is not None else ""
        return CommandError(
            f"{where}something else answers there, not renewer ({text}); say where the daemon is with --api or "
            "RENEWER_API",
            ExitCode.UNAVAILABLE,
        )
    match error:
        case NotAllowed(status=401) if endpoint is not None and endpoint.key is None:
            return CommandError("no key given: set RENEWER_API_KEY or --api-key-file", ExitCode.NO_PERMISSION)
        case NotAllowed(status=401) if endpoint is not None:
            return CommandError(
                "this key is not the daemon's: RENEWER_API_KEY or --api-key-file must give the one that its [api] "
                "section names",
                ExitCode.NO_PERMISSION,
            )
        case NotAllowed():
            return CommandError(text, ExitCode.NO_PERMISSION)
        case NotFound() if about:
            things = "operations" if kind == "op" else "leases"
            return CommandError(
                f"{printable(about)}: not known; `renewer {kind or 'lease'} ls` lists {things}", ExitCode.NOT_FOUND
            )
        case BadRequest() | AddressError():
            return CommandError(text, ExitCode.USAGE)
        case NotFound():
            return CommandError(
                f"{text}; `renewer lease ls` and `renewer op ls` list what there is", ExitCode.NOT_FOUND
            )
        case Refused(retry_after_s=retry_after_s):
            later = f"; try again in {span(retry_after_s)}" if retry_after_s else "; try again later"
            return CommandError(text + later, ExitCode.TRY_AGAIN)
        case Unavailable(status=503):
            # It is there, and cannot store what it would have to: a disk that is full, say.
            return CommandError(text, ExitCode.TRY_AGAIN)
        case Timeout() | RemoteFailed():
            return CommandError(text, ExitCode.TRY_AGAIN)
        case Unavailable() | ProtocolError():
            return CommandError(text, ExitCode.UNAVAILABLE)
        case ServerError():
            return CommandError(text, ExitCode.SOFTWARE)
        case _:
            return CommandError(f"{printable(about)}: {text}" if about else text, ExitCode.FAILED)


def _is_somebody_else(error: RenewerApiError) -> bool:
    """Whether what answered is not renewer: every error of ours is a problem document (RFC 9457)."""
    if isinstance(error, ProtocolError):
        return True
    if error.status is not None and error.status >= 400:
        return not (error.problem and "title" in error.problem and "status" in error.problem)
    cause = error.__cause__
    # A daemon that goes away ends the connection in good order, as far as HTTP can tell.
    return isinstance(cause, httpx.RemoteProtocolError) and not any(
        words in str(cause) for words in ("disconnected", "closed connection")
    )
