"""Waiting for as long as there is somebody to answer."""

from __future__ import annotations

import weakref
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from starlette.requests import Request

from renewer.api.wanted import while_wanted
from tests.uncollected import no_collector

pytestmark = pytest.mark.anyio


class Caller:
    """One who stays until it goes."""

    def __init__(self) -> None:
        self.gone = anyio.Event()
        self.stopping = anyio.Event()

    def request(self) -> Request:
        return Request({"type": "http", "extensions": {"renewer.stopping": self.stopping}}, self.receive)

    async def receive(self) -> dict[str, str]:
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_what_is_waited_for_ends_the_wait() -> None:
    with anyio.fail_after(10):
        await while_wanted(Caller().request(), partial(anyio.sleep, 5))


@pytest.mark.parametrize("who", ["gone", "stopping"])
async def test_nobody_is_waited_for_who_is_gone_and_nothing_while_the_server_stops(who: str) -> None:
    caller = Caller()
    event: anyio.Event = getattr(caller, who)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(while_wanted, caller.request(), anyio.sleep_forever)
        await anyio.wait_all_tasks_blocked()
        event.set()


async def test_what_goes_wrong_comes_out_as_it_is() -> None:
    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError("this")

    with pytest.raises(LookupError, match="this"):
        await while_wanted(Caller().request(), fail)


async def test_a_wait_leaves_nothing_to_the_garbage_collector() -> None:
    with no_collector():
        caller = Caller()
        left = weakref.ref(caller)
        await while_wanted(caller.request(), partial(anyio.sleep, 1))
        del caller
        await anyio.wait_all_tasks_blocked()
        assert left() is None
