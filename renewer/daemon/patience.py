"""How long a broker or a service is waited for that is asked on somebody's behalf."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from renewer.errors import TransientError

REMOTE_S: Final = 15.0
"""How long a caller waits for a broker or a service that is asked on its behalf."""


@asynccontextmanager
async def in_time(otherwise: str) -> AsyncIterator[None]:
    """Give what is done in here `REMOTE_S`, then it is a `TransientError`; `otherwise` says what that leaves open."""
    try:
        with anyio.fail_after(REMOTE_S):
            yield
    except TimeoutError as error:
        raise TransientError(f"no answer within {REMOTE_S:g} s: {otherwise}", kind="timeout") from error
