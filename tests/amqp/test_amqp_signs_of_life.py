"""Two transports that have nothing to say to each other, in virtual time."""

from __future__ import annotations

import anyio
import pytest

from renewer.amqp import AmqpTransport, Connection, ConnectionState, Event, SaslAnonymous, SaslServer
from tests.targets.scripted_broker import MemoryStream
from tests.virtualtime import virtual

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return virtual(request.param)


async def test_signs_of_life_keep_an_idle_connection_open() -> None:
    terms = {"idle_time_out_s": 0.2, "now": anyio.current_time()}
    ends = (
        Connection(role="server", container_id="s", sasl=SaslServer(["ANONYMOUS"]), **terms),  # type: ignore[arg-type]
        Connection(role="client", container_id="c", sasl=SaslAnonymous(), **terms),  # type: ignore[arg-type]
    )
    events: list[Event] = []
    async with anyio.create_task_group() as tasks:
        for stream, connection in zip(MemoryStream.pair(), ends, strict=True):
            tasks.start_soon(AmqpTransport(stream, connection).run, events.append)
        await anyio.sleep(60)
        assert [connection.state for connection in ends] == [ConnectionState.OPENED] * 2
        assert [type(event).__name__ for event in events] == ["ConnectionOpened"] * 2
        tasks.cancel_scope.cancel()
