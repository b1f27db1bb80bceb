"""Virtual time for both backends: hours pass in milliseconds, and nothing in these tests reads the real clock."""

from __future__ import annotations

import pytest

from tests.virtualtime import VirtualClock, virtual


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual(request.param)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()
