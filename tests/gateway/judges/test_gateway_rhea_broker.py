"""The gateway before a broker that shares no code with it: on rhea, strict, with options that ours does not have.

`make judges` installs rhea, and the SDK for JavaScript that is the second of the two workers here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import IO

import pytest
from anyio.from_thread import start_blocking_portal

from tests.gateway.judges.gateway_process import Gateways, gateways_before
from tests.gateway.judges.test_gateway_sdk_javascript import play
from tests.gateway.test_gateway_other_brokers import PATIENCE_S, Scene
from tests.judges.public_servers import FOLDER

BROKER = Path(__file__).with_name("rhea_broker.cjs")
KEY = "dGhlIGtleSBvZiB0aGUgbmFtZXNwYWNlLCAzMiBieXRlcw=="
OPTIONS: dict[str, dict[str, object]] = {
    "rhea": {},
    "frames-of-512": {"max_frame_size": 512},
    "two-channels": {"channel_max": 1, "credit_window": 2},
    "few-handles": {"handle_max": 7, "max_frame_size": 4096},
}
LOCK_S = 2.0
SCENARIOS = (
    "a_session_is_accepted_by_name_and_keeps_its_state",
    "a_session_outlives_a_loop_that_is_blocked",
    "a_hundred_messages_outlive_a_loop_that_is_blocked",
)


class RheaBroker:
    """The broker's process."""

    def __init__(self, process: subprocess.Popen[str], complaints: IO[str]) -> None:
        self._process = process
        self._complaints = complaints
        self._numbers = count(1)
        self.connection_string = (
            f"Endpoint=sb://127.0.0.1:{self._read()['port']};SharedAccessKeyName=upstream;SharedAccessKey={KEY};"
            "UseDevelopmentEmulator=true"
        )

    def queue(self, *, sessions: bool = False, lock_duration_s: float = LOCK_S) -> str:
        """A name that means a new queue."""
        assert lock_duration_s
        return f"{'session' if sessions else 'plain'}-{next(self._numbers)}"

    def counters(self) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.write("state\n")
        self._process.stdin.flush()
        return self._read()

    def complaints(self) -> str:
        self._complaints.seek(0)
        return self._complaints.read()

    def _read(self) -> dict[str, int]:
        assert self._process.stdout is not None
        found: dict[str, int] = json.loads(self._process.stdout.readline())
        return found


@contextlib.contextmanager
def rhea_broker(options: dict[str, object]) -> Iterator[RheaBroker]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    if not (FOLDER / "node_modules/rhea").is_dir():
        pytest.skip("needs rhea, which `make judges` installs")
    told = {"key_name": "upstream", "key": KEY, "lock_s": LOCK_S, **options}
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            [node, str(BROKER), json.dumps(told)],
            env={**os.environ, "NODE_PATH": str(FOLDER / "node_modules")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        ) as process,
    ):
        try:
            yield RheaBroker(process, complaints)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def brokers() -> Iterator[dict[str, RheaBroker]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(rhea_broker(options)) for name, options in OPTIONS.items()}


@pytest.fixture(scope="module")
def gateways(brokers: dict[str, RheaBroker]) -> Iterator[Gateways]:
    others = {name: broker.connection_string for name, broker in brokers.items()}
    with gateways_before(others["rhea"], others=others) as gateways:
        yield gateways


@pytest.fixture(scope="module")
def outcomes(brokers: dict[str, RheaBroker], gateways: Gateways) -> dict[str, BaseException | None]:
    with start_blocking_portal() as portal:
        playing = {
            name: portal.start_task_soon(Scene(broker, gateways, name).play)  # type: ignore[arg-type]
            for name, broker in brokers.items()
        }
        return {name: future.exception(PATIENCE_S) for name, future in playing.items()}


@pytest.mark.parametrize("name", OPTIONS)
def test_locks_are_kept(outcomes: dict[str, BaseException | None], brokers: dict[str, RheaBroker], name: str) -> None:
    error = outcomes[name]
    if error is not None:
        raise error
    counters = brokers[name].counters()
    assert (counters["sessions_lost"], counters["messages_lost"]) == (0, 0)
    assert counters["session_renewals"] > 2
    assert counters["message_renewals"] > 2 * 10
    assert brokers[name].complaints() == ""


def test_the_sdk_for_javascript_is_served_by_two_strangers(brokers: dict[str, RheaBroker], gateways: Gateways) -> None:
    if not (FOLDER / "node_modules/@azure/service-bus").is_dir():
        pytest.skip("needs @azure/service-bus, which `make judges` installs")
    broker = brokers["rhea"]
    found = play(broker, gateways, "keeping", blocked_s=2.5 * LOCK_S, scenarios=SCENARIOS)
    assert found == dict.fromkeys(SCENARIOS)
    assert broker.complaints() == ""
