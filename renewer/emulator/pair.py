"""Both halves of the emulator in one process, sharing one set of faults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio

from renewer.emulator.admin import EmulatorAdmin
from renewer.emulator.broker import Broker, QueueSpec
from renewer.emulator.broker.admin import broker_routes
from renewer.emulator.broker.rest import with_messages
from renewer.emulator.fabric import FabricEmulator
from renewer.emulator.faults import Faults
from renewer.emulator.http import build_http_app, serve_http

if TYPE_CHECKING:
    from anyio.abc import TaskStatus


class Emulator:
    """A Service Bus and a Fabric. `faults` scripts what goes wrong; so does the admin API on the HTTP listener."""

    def __init__(self, queues: Sequence[QueueSpec], *, lock_duration_s: float, token: str | None = "local") -> None:
        """Nothing listens before `run`. `token` is the bearer token that Fabric accepts, None for any."""
        self.faults = Faults()
        self.broker = Broker(queues=queues, lock_duration_s=lock_duration_s, faults=self.faults)
        self.fabric = FabricEmulator(self.faults, token=token)

    async def run(
        self,
        amqp: tuple[str, int],
        http: tuple[str, int],
        *,
        websocket: tuple[str, int] | None = None,
        task_status: TaskStatus[tuple[int, int]] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled; reports both ports, for 0 lets the system choose. Raises `UsageError` if it cannot.

        With `websocket` Service Bus is there, too, by AMQP over WebSocket, without TLS.
        """
        admin = EmulatorAdmin(self.faults)
        admin.add_state("servicebus", self.broker.state)
        admin.add_routes(broker_routes(self.broker))
        async with anyio.create_task_group() as tasks:
            amqp_port: int = await tasks.start(self.broker.serve, *amqp)
            if websocket is not None:
                await tasks.start(self.broker.serve_websocket, *websocket)
            app = with_messages(self.broker, build_http_app(self.fabric, admin))
            http_port: int = await tasks.start(serve_http, app, *http)
            task_status.started((amqp_port, http_port))
