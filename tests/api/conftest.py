"""The API over a supervisor with fake targets, in virtual time."""

from __future__ import annotations

import pytest

from tests.virtualtime import VirtualClock, virtual


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return virtual("asyncio")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()
