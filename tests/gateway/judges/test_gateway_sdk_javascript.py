"""The official SDK for JavaScript, unmodified, through the gateway. `make judges` installs it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from tests.gateway.judges.gateway_process import ALLOWED, Gateways, gateways_before, judged_broker
from tests.judges.public_servers import FOLDER

WORKER = Path(__file__).with_name("sdk_worker.cjs")
SCENARIOS = re.findall(r"^  async (\w+)\(\)", WORKER.read_text(), re.MULTILINE)
LOCK_S = 4.0
BLOCKED_S = 9.0

Outcomes = dict[str, str | None]


class Broker(Protocol):
    """Where the queues are."""

    connection_string: str

    def queue(self, *, sessions: bool = False, lock_duration_s: float = 60.0) -> str: ...


@pytest.fixture(scope="module", params=["keeping", "honest"])
def outcomes(request: pytest.FixtureRequest) -> Iterator[Outcomes]:
    """What became of each scenario: None, or what went wrong."""
    if shutil.which("node") is None:
        pytest.skip("needs node")
    if not (FOLDER / "node_modules/@azure/service-bus").is_dir():
        pytest.skip("needs @azure/service-bus, which `make judges` installs")
    with judged_broker() as broker, gateways_before(broker.connection_string) as gateways:
        broker.entity(ALLOWED)
        yield play(broker, gateways, request.param)


def play(
    broker: Broker,
    gateways: Gateways,
    kind: str,
    *,
    blocked_s: float = BLOCKED_S,
    scenarios: Sequence[str] = SCENARIOS,
) -> Outcomes:
    """Have a worker on that SDK do things by a gateway of that kind."""
    told = {
        "upstream": broker.connection_string,
        "connection": gateways.connection_string(kind),
        "wrong": gateways.connection_string(kind, key=base64.b64encode(b"x" * 32).decode()),
        "narrow": gateways.connection_string(kind, "narrow"),
        "allowed": ALLOWED,
        "blocked_ms": int(1000 * blocked_s),
        "names": {
            "plain": [broker.queue(lock_duration_s=LOCK_S) for _ in scenarios],
            "sessions": [broker.queue(sessions=True, lock_duration_s=LOCK_S) for _ in scenarios],
        },
        "scenarios": scenarios,
    }
    done = subprocess.run(
        ["node", str(WORKER), json.dumps(told)],
        env={**os.environ, "NODE_PATH": str(FOLDER / "node_modules")},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=300,
    )
    return {entry["name"]: entry["error"] for entry in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_sdk_for_javascript_is_served(outcomes: Outcomes, scenario: str) -> None:
    assert outcomes.get(scenario, f"it said nothing: {outcomes}") is None


def test_nothing_of_it_breaks_aside(outcomes: Outcomes) -> None:
    assert set(outcomes) == set(SCENARIOS)
