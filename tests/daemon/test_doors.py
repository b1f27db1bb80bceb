"""Addresses are taken all or none, and what somebody else has taken is left to them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from renewer.asgi import listen_unix
from renewer.daemon.app import Daemon
from renewer.errors import UsageError
from tests.daemon.test_reload_early import running, settings

pytestmark = pytest.mark.anyio

GATEWAY = 'listen = "{}", name = "{}", key = [{{ name = "k", key = "c2VjcmV0LW9mLXdvcmtlcnM", entities = ["orders"] }}]'


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_where_one_address_is_taken_the_others_are_given_back(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listens = [f"unix:{tmp_path}/gateway.sock", f"127.0.0.1:{taken.getsockname()[1]}"]
        gateways = ", ".join(f"{{ {GATEWAY.format(listen, f'g{n}')} }}" for n, listen in enumerate(listens))
        with pytest.raises(UsageError, match=r"\[gateway\] listen"):
            await Daemon(settings(tmp_path, more=f"gateway = [{gateways}]")).run()
    assert [name for name in os.listdir(tmp_path) if name.endswith(".sock")] == []


async def test_a_socket_that_another_daemon_has_made_in_the_place_of_ours_is_left(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/gateway.sock"
    paths = [tmp_path / "renewer.sock", tmp_path / "gateway.sock"]
    async with running(Daemon(settings(tmp_path, more=f"gateway = [{{ {GATEWAY.format(listen, 'g')} }}]"))):
        for path in paths:
            path.unlink()
        others = [listen_unix(path, mode=0o600) for path in paths]
    for path, other in zip(paths, others, strict=True):
        with other, socket.socket(socket.AF_UNIX) as caller:
            caller.connect(os.fspath(path))
