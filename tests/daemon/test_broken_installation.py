"""What is loaded after READY may be missing: what is held by then is given back in order, and the reason comes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from renewer.daemon import app
from tests.daemon.test_reload_early import settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_daemon_whose_api_cannot_be_loaded_stops_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def missing() -> None:
        raise ImportError("no module named fastapi")

    monkeypatch.setattr(app, "load_api", missing)
    daemon = app.Daemon(settings(tmp_path))
    with pytest.raises(ImportError, match="fastapi"):
        await daemon.run()
    assert daemon.control.state == "stopping"
    (lease,) = daemon.control.leases()
    assert lease.is_parked


async def test_so_does_one_that_can_send_no_requests_though_it_follows_operations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise ImportError("no module named aiohttp")

    monkeypatch.setattr(app, "load_aiohttp", missing)
    account = 'fabric.main = { base_url = "http://127.0.0.1:9/v1", token = "local" }'
    daemon = app.Daemon(settings(tmp_path, more=account))
    with pytest.raises(ImportError, match="aiohttp"):
        await daemon.run()
    assert daemon.control.state == "stopping"
