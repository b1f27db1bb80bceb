"""A message that the official SDK received stays its own through `kill -9` of the daemon that keeps its lock."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from azure.servicebus import ServiceBusClient, ServiceBusMessage

from renewer.client import Client

LOCK_S = 8.0
"""Longer than a daemon takes to start, on a machine that has much else to do."""
LIMIT_S = 60


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A command that is ready, with the line of its log that says so."""
    command = [sys.executable, "-m", "renewer", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            yield process, next(line for line in map(json.loads, process.stderr) if line["event"].endswith(" ready"))
        finally:
            process.kill()


def test_the_sdk_completes_its_message_after_the_daemon_was_killed_and_its_lock_would_be_long_over(
    tmp_path: Path,
) -> None:
    emulator = ("emulator", "--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--queue", "plain")
    with running(*emulator, "--lock-duration", f"{LOCK_S}s") as (_, ready):
        connection = (
            f"Endpoint=sb://{ready['amqp']};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;"
            "UseDevelopmentEmulator=true"
        )
        config = tmp_path / "config.toml"
        config.write_text(
            f"""
            daemon.state_dir = "{tmp_path}"
            api.listen = "unix:{tmp_path}/renewer.sock"
            metrics.listen = "off"
            servicebus.main.connection_string = "{connection}"
            """
        )
        run = ("run", "--config", str(config))
        with ServiceBusClient.from_connection_string(connection) as sdk, sdk.get_queue_receiver("plain") as receiver:
            with sdk.get_queue_sender("plain") as sender:
                sender.send_messages(ServiceBusMessage("work"))
            with running(*run) as (daemon, _), Client(f"unix:{tmp_path}/renewer.sock") as client:
                (message,) = receiver.receive_messages(max_message_count=1, max_wait_time=LIMIT_S)
                lease = client.hold("plain", kind="message", lock_token=str(message.lock_token), wait=f"{LIMIT_S}s")
                assert lease.state == "held"
                daemon.send_signal(signal.SIGKILL)
                daemon.wait(LIMIT_S)
            with running(*run), Client(f"unix:{tmp_path}/renewer.sock") as client:
                time.sleep(LOCK_S + 2.0)
                again = client.lease(lease.id)
                assert (again.state, again.epoch, again.losses) == ("held", 1, 0)
                receiver.renew_message_lock(message)
                receiver.complete_message(message)
            with sdk.get_queue_receiver("plain") as another:
                assert another.receive_messages(max_message_count=1, max_wait_time=LOCK_S) == []
