"""Finding the lease that a request is about."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Query

from renewer.api.control import Control
from renewer.api.problems import not_found
from renewer.core.leases import Lease
from renewer.core.model import LeaseId


def find_lease(control: Control, id_: str) -> Lease:
    """The lease with this id, or a `Problem`."""
    lease = control.lease(LeaseId(id_))
    if lease is None:
        raise not_found("lease")
    return lease


Epoch = Annotated[
    int | None,
    Query(
        ge=1,
        description="The epoch that the caller holds: once the lease is on another one, 409 with `state` `lost`.",
    ),
]


def check_epoch(control: Control, lease_id: LeaseId, epoch: int | None) -> None:
    """Refuse whoever held an epoch that is over. To be called right before what it is to protect."""
    if epoch is not None:
        control.check_epoch(lease_id, epoch)


@contextmanager
def known_lease() -> Generator[None, None, None]:
    """A lease that is forgotten while something is asked of it is not there, as if it had been so from the start."""
    try:
        yield
    except KeyError as error:
        raise not_found("lease") from error
