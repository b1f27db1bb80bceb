"""A daemon that does as it is told, for both clients; the async one on both of anyio's backends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.standin import StandIn


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    daemon = StandIn(tmp_path / "s").start()
    try:
        yield daemon
    finally:
        daemon.kill()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # httpcore 1.0 leaves the socket of a connection that was refused to the garbage collector.
    refused = pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(refused)
