"""A pool of next available sessions: the daemon and the emulator as processes, the official SDK as the other party."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient, ServiceBusMessage
from azure.servicebus.exceptions import OperationTimeoutError, SessionCannotBeLockedError

from renewer.client import Client, Refused
from tests.client.test_client_with_daemon import running


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[ServiceBusClient, str]]:
    """The SDK's client, and the address of a daemon that keeps a pool of two."""
    ports = ["--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    with ExitStack() as stack:
        emulator = stack.enter_context(
            running("emulator", *ports, "--lock-duration", "5s", "--queue", "orders:session")
        )
        address = emulator.event("emulator ready")["amqp"]
        keys = f"Endpoint=sb://{address};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
        config = tmp_path / "config.toml"
        config.write_text(
            f'[daemon]\nstate_dir = "{tmp_path}"\n[api]\nlisten = "unix:{tmp_path}/s"\n[metrics]\nlisten = "off"\n'
            f'[servicebus.main]\nconnection_string = "{keys}"\n'
            '[[session]]\nentity = "orders"\nsessions = 2\nidle_timeout = "1h"\n'
        )
        sdk = stack.enter_context(ServiceBusClient.from_connection_string(keys, retry_total=0))
        with sdk.get_queue_sender("orders") as sender:
            sender.send_messages([ServiceBusMessage(name, session_id=name) for name in ("a", "b", "c")])
        daemon = stack.enter_context(running("run", "--config", str(config)))
        daemon.event("daemon ready")
        yield sdk, f"unix:{tmp_path}/s"


def test_workers_share_a_pool_and_the_rest_of_the_sessions_are_for_others(
    service: tuple[ServiceBusClient, str],
) -> None:
    sdk, api = service
    with Client(api) as client, ExitStack() as stack:
        first = stack.enter_context(client.session("orders"))
        second = client.session("orders")
        with second as other:
            assert {first.session_id, other.session_id} == {"a", "b"}
            assert (other.lease.pool, other.lease.free) == ("orders", False)
            assert [(pool.name, pool.sessions, pool.taken) for pool in client.status().pools] == [("orders", 2, 2)]
            with pytest.raises(Refused, match="all 2 sessions of the pool for orders are taken"):
                client.hold("orders")
            with pytest.raises(SessionCannotBeLockedError), sdk.get_queue_receiver("orders", session_id="a"):
                pass
            with sdk.get_queue_receiver("orders", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=5) as receiver:
                assert receiver.session.session_id == "c"
                receiver.complete_message(receiver.receive_messages()[0])
            given_back = other.session_id
        # Released by its worker, it is on offer again, and the pool, which has room, takes it.
        third = stack.enter_context(client.session("orders"))
        assert third.session_id == given_back
        with (
            pytest.raises(OperationTimeoutError),
            sdk.get_queue_receiver("orders", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1),
        ):
            pass
        first.check()
        third.check()
