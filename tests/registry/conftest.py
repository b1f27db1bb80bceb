"""Every registry, on both backends, in real time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.registry.registry_rig import STORES, Reach


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(STORES))
def reach(request: pytest.FixtureRequest, tmp_path: Path) -> Reach:
    return STORES[request.param](tmp_path / "state")
