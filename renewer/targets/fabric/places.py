"""What Fabric's paths mean: operations, their results, job instances, and where each is asked for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from renewer.targets.origins import split_url
from renewer.targets.rest.places import Place, rebase

if TYPE_CHECKING:
    from renewer.targets.rest.account import AccountOptions

Bucket = Literal["platform", "jobs", "operations"]
"""What Fabric counts separately for each identity (Microsoft Fabric REST API throttling)."""

_UUID = r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"
_OPERATION_ID = re.compile(_UUID + r"\Z")
_OPERATION = re.compile(rf"(?:/[^?]*)?/operations/(?P<id>{_UUID})(?P<result>/result)?/?(?:\?.*)?\Z")
_JOB_INSTANCE = re.compile(r"/[^?]+/jobs/instances/[^/?]+/?(?:\?.*)?\Z")
_CAPACITY_ASSIGNMENT = re.compile(
    r"(?P<workspace>.*/workspaces/[^/]+)/(?:un)?assign(?:to|from)capacity/?\Z", re.IGNORECASE
)


def path_of_location(options: AccountOptions, location: str) -> str | None:
    """Rebuild the path that a Location header names on our own host; None if it cannot be used.

    The service names hosts of its back end there, which are not to see the token.
    """
    try:
        if not location.startswith("/"):
            _, path, query = split_url(location)
            location = path + query
        path = rebase(options, location)
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


def bucket_of(path: str) -> Bucket:
    """What a request to this path counts against."""
    bare = path.partition("?")[0]
    if "/jobs/" in bare.lower():
        return "jobs"
    return "platform" if _OPERATION.match(bare) is None else "operations"


def where_to_look(asked: Place) -> str:
    """What tells how a request ended for which the service gives nothing to ask."""
    match = _CAPACITY_ASSIGNMENT.match(asked.bare_path)
    if match is None:
        return "look at the resource itself"
    return f"look at capacityAssignmentProgress of the workspace (GET {match['workspace']})"
