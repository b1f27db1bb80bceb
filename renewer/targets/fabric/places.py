"""Where requests go: paths on a host that may see the token, whatever host a URL or a header names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from renewer.errors import UsageError
from renewer.targets.origins import Origin, check_path, redact, split_url

if TYPE_CHECKING:
    from renewer.targets.fabric.options import FabricOptions

_UUID = r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"
_OPERATION_ID = re.compile(_UUID + r"\Z")
_OPERATION = re.compile(rf"(?:/[^?]*)?/operations/(?P<id>{_UUID})(?P<result>/result)?/?(?:\?.*)?\Z")
_JOB_INSTANCE = re.compile(r"/[^?]+/jobs/instances/[^/?]+/?(?:\?.*)?\Z")


@dataclass(frozen=True, slots=True, repr=False)
class Place:
    """A path, with its query, on a host that may see the token."""

    origin: Origin
    path: str

    @property
    def url(self) -> str:
        """The absolute URL."""
        return f"{self.origin}{self.path}"

    def __str__(self) -> str:
        """Render for people: without the query, which can hold a signature."""
        return redact(self.url)

    __repr__ = __str__


def locate(options: FabricOptions, url: str, *, field: str = "url") -> Place:
    """Find the place that a caller's URL means: absolute on an allowed host, or relative to the base URL.

    Raises UsageError, naming `field`, for every other host.
    """
    try:
        if "://" not in url.partition("?")[0]:
            return Place(options.origin, _rebase(options, url if url.startswith("/") else f"/{url}"))
        origin, path, query = split_url(url)
    except ValueError as error:
        raise UsageError(f"{field}: {redact(url)!r} {error}") from error
    if not options.allows(origin):
        raise UsageError(
            f"{field}: {origin} is not the host of fabric.{options.name} ({options.origin}), and no other may see its "
            "token; give a path"
        )
    return Place(origin, path + query)


def path_of_location(options: FabricOptions, location: str) -> str | None:
    """Rebuild the path that a Location header names on our own host; None if it cannot be used.

    The service names hosts of its back end there, which are not to see the token.
    """
    try:
        if not location.startswith("/"):
            _, path, query = split_url(location)
            location = path + query
        path = _rebase(options, location)
    except ValueError:
        return None
    # The root answers, if at all, with something that is no state.
    return None if path.partition("?")[0] == f"{options.base_path}/" else path


def operation_id(text: str | None) -> str | None:
    """The operation id in a header or in the path of an operation's state or result URL; None if there is none."""
    if text is None:
        return None
    match = _OPERATION.match(text)
    if match is not None:
        return match["id"]
    return text if _OPERATION_ID.match(text) else None


def is_state_path(path: str) -> bool:
    """Whether this path answers with an operation's or a job instance's state."""
    operation = _OPERATION.match(path)
    return is_job_instance(path) if operation is None else operation["result"] is None


def is_job_instance(path: str) -> bool:
    """Whether this path is that of a job instance."""
    return _JOB_INSTANCE.match(path) is not None


def cancel_path(path: str) -> str | None:
    """Where a job instance is cancelled; None for everything else, which cannot be."""
    if not is_job_instance(path):
        return None
    instance, mark, query = path.partition("?")
    return f"{instance.rstrip('/')}/cancel{mark}{query}"


def _rebase(options: FabricOptions, path: str) -> str:
    """Put a path below the base path, unless it is there; `/v1` in it and at the base's end are the same."""
    check_path(path)
    base = options.base_path
    if path.startswith(f"{base}/"):
        return path
    return base + (path[3:] if base.endswith("/v1") and path.startswith("/v1/") else path)
