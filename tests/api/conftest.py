"""The API over a supervisor with fake targets, in virtual time."""

from __future__ import annotations

import pytest

from tests.daemon.virtualtime import VirtualClock, VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()
