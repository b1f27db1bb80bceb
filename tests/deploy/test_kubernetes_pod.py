"""The Pod of the sidecar overlay, run by podman with a worker in it that uses renewer.client over the shared socket."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.deploy.cgroups import TAKE_ALL_MEMORY, was_out_of_memory
from tests.deploy.containers import Net, until
from tests.deploy.manifests import built
from tests.deploy.pods import Pod, lowered, played

pytestmark = pytest.mark.deploy

WORKER = """
import signal, sys, time
from renewer.client import Client

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with Client(retry_for="60s") as client, client.session("orders", "customer-42") as session:
    session.set_state(b"step 1")
    print("holding", session.session_id, flush=True)
    while True:
        session.check()
        time.sleep(0.2)
"""


@pytest.fixture
def pod(net: Net) -> Iterator[Pod]:
    """The Pod, up."""
    with played(net, lowered(built("sidecar"), worker=WORKER, secrets={"servicebus": "eA=="})) as pod:
        yield pod


def test_a_worker_uses_the_sidecar_over_the_shared_socket(pod: Pod) -> None:
    until(lambda: "holding customer-42" in pod.log("worker"), what=pod.told)
    assert pod.broker()["sessions_held"] == 1
    assert pod.exec("worker", "renewer", "health").returncode == 0
    assert int(pod.exec("worker", "id", "-u").stdout) == 10001

    # The worker ends, as in a rolling update: its session is free at once, and the next one takes it.
    before = pod.exec("renewer", "renewer", "status", "-o", "json").stdout
    assert pod.stop("worker", within_s=5) == 0
    until(lambda: pod.broker()["sessions_held"] == 0, what=pod.told)
    pod.start("worker")
    until(lambda: pod.broker()["sessions_held"] == 1, what=pod.told)
    assert json.loads(before)["losses"] == 0

    assert pod.stop("renewer", within_s=2) == 0
    assert pod.broker()["sessions_held"] == 0


def test_a_sidecar_that_runs_out_of_memory_is_started_anew_and_the_worker_goes_on(pod: Pod) -> None:
    until(lambda: "holding customer-42" in pod.log("worker"), what=pod.told)
    pod.exec("renewer", "python3", "-c", TAKE_ALL_MEMORY, check=False)
    # The worker is told that its session is gone, ends, and is started anew, as the sidecar was.
    until(lambda: pod.log("worker").count("holding customer-42") == 2, what=pod.told)
    assert was_out_of_memory(pod.inspect("renewer")["Id"], "renewer")
    assert pod.broker()["sessions_held"] == 1
    assert pod.log("renewer").count('"event": "daemon ready"') == 2
