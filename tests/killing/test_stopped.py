"""A daemon that stands still (SIGSTOP) until its lock is over, and goes on as if nothing had happened."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from renewer.client import Client
from tests.killing.test_message_locks import LIMIT_S, running

LOCK_S = 5.0


def test_a_daemon_that_was_stopped_beyond_the_lock_tells_the_loss_once_and_holds_the_session_again(
    tmp_path: Path,
) -> None:
    emulator = ("emulator", "--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--queue", "orders:session")
    config = tmp_path / "config.toml"
    with running(*emulator, "--lock-duration", f"{LOCK_S}s") as (_, ready):
        config.write_text(
            f"""
            daemon.state_dir = "{tmp_path}"
            api.listen = "unix:{tmp_path}/renewer.sock"
            metrics.listen = "off"
            [servicebus.main]
            connection_string = "Endpoint=sb://{ready["amqp"]};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
            """
        )
        with running("run", "--config", str(config)) as (daemon, _), Client(f"unix:{tmp_path}/renewer.sock") as client:
            lease = client.hold("orders", "a", reacquire=True, wait=f"{LIMIT_S}s")
            assert (lease.state, lease.epoch) == ("held", 1)
            with client.watch(lease.id) as events:
                assert next(events).type == "snapshot"
                daemon.send_signal(signal.SIGSTOP)
                time.sleep(LOCK_S + 3.0)
                daemon.send_signal(signal.SIGCONT)
                told = []
                for event in events:
                    told.append(event.type)
                    if event.type == "lease.reacquired":
                        break
            assert [word for word in told if word in ("lease.lost", "lease.reacquired")] == [
                "lease.lost",
                "lease.reacquired",
            ]
            again = client.lease(lease.id, wait=f"{LIMIT_S}s")
            assert (again.state, again.epoch, again.losses) == ("held", 2, 1)
            assert again.last_loss is not None
            assert (again.last_loss.reason, again.last_loss.epoch) == ("expired", 1)
