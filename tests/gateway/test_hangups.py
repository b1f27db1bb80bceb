"""Sockets that are not read, and whose end is noticed all the same."""

from __future__ import annotations

import os
import socket

import anyio
import pytest

from renewer.gateway.hangups import Hangups

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(os, "eventfd"), reason="Linux alone tells of the end of what is not read"),
]


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def test_an_end_is_told_once_though_nobody_reads() -> None:
    told, seen = anyio.Event(), []

    def on_end() -> None:
        seen.append("end")
        told.set()

    hangups = Hangups()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"unread")
        hangups.watch(ours.fileno(), on_end)
        theirs.shutdown(socket.SHUT_WR)
        with anyio.fail_after(10):
            await told.wait()
        await anyio.lowlevel.checkpoint()
        hangups.close()
    assert seen == ["end"]


async def test_what_was_closed_opens_nothing_again() -> None:
    hangups = Hangups()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        hangups.watch(ours.fileno(), lambda: None)
        hangups.close()
        before = set(os.listdir("/proc/self/fd"))
        hangups.watch(ours.fileno(), lambda: None)
        hangups.forget(ours.fileno())
        assert set(os.listdir("/proc/self/fd")) == before
