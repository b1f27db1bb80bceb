"""A Fabric emulator on a clock moved by hand, and a client of it. A module may say when its clock begins (`BEGINS`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from renewer.emulator.fabric import FabricEmulator
from renewer.emulator.faults import Faults


class Clock:
    """Monotonic seconds and UTC, both moved by hand."""

    def __init__(self, begins: datetime) -> None:
        self.now_s = 0.0
        self._begins = begins

    def __call__(self) -> float:
        return self.now_s

    def utc_now(self) -> datetime:
        return self._begins + timedelta(seconds=self.now_s)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> Clock:
    return Clock(getattr(request.module, "BEGINS", datetime(2026, 4, 27, 6, 50, 18, tzinfo=UTC)))


@pytest.fixture
def faults(clock: Clock) -> Faults:
    return Faults(clock.utc_now)


@pytest.fixture
def fabric(faults: Faults, clock: Clock) -> FabricEmulator:
    return FabricEmulator(faults, clock=clock)


@pytest.fixture
async def client(fabric: FabricEmulator) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(fabric.app)
    headers = {"Authorization": "Bearer local"}
    async with httpx.AsyncClient(transport=transport, base_url="http://emu:8323", headers=headers) as client:
        yield client
