"""Virtual time for both backends: hours pass in milliseconds, and nothing in these tests reads the real clock."""

from __future__ import annotations

import pytest
import trio.testing

from tests.daemon.virtualtime import VirtualClock, VirtualLoop


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    if request.param == "trio":
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": VirtualLoop}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()
