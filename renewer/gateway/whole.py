"""Deliveries that are read whole though they may come in several frames: requests, their answers, and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from renewer.gateway.transfers import read_transfer

if TYPE_CHECKING:
    from renewer.gateway.links import WorkerLink

LONGEST_READ: Final = 256 * 1024
"""Bytes; what is longer passes unread."""


def gather(link: WorkerLink, body: bytes, *, skip: bool = False) -> bytes | None:
    """The payload of the delivery that this transfer completes; None while it does not, or where it is not read.

    With `skip` a delivery that begins here is not read.
    """
    *_, more, aborted, payload_at = read_transfer(body)
    payload = body[payload_at:]
    if not link.is_within:
        link.partial = None if skip else bytearray()
    link.is_within = more and not aborted
    if link.partial is None or aborted:
        link.partial = None
        return None
    link.partial += payload
    if len(link.partial) > LONGEST_READ:
        link.partial = None
        return None
    if more:
        return None
    whole = bytes(link.partial)
    link.partial = None
    return whole
