"""The Pod of the gateway overlay, run by podman: in the worker the official SDK, and what it is told to connect to."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import Net, until
from tests.deploy.manifests import Document, built, container, pod_of
from tests.deploy.pods import CONNECTION, LOCK_S, Pod, lowered, played
from tests.deploy.tools import REPOSITORY

pytestmark = pytest.mark.deploy

BLOCKED_S = 3 * LOCK_S

# It has one thread, in which it works: while it does, nothing of the SDK runs.
WORKER = f"""
import os, signal, sys, time
from azure.servicebus import ServiceBusClient, ServiceBusMessage

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
name = "RENEWER_GATEWAY_KEY"
text = os.environ["SERVICEBUS_CONNECTION_STRING"].replace(f"$({{name}})", os.environ[name])  # podman leaves that to us
with ServiceBusClient.from_connection_string(text) as client:
    with client.get_queue_sender("orders") as sender:
        sender.send_messages(ServiceBusMessage("an order", session_id="customer-42"))
    with client.get_queue_receiver("orders", session_id="customer-42") as receiver:
        message = receiver.next()
        print("holding", receiver.session.session_id, flush=True)
        time.sleep({BLOCKED_S})
        receiver.session.set_state(b"done")
        receiver.complete_message(message)
        print(f"completed {{message}}, then {{receiver.session.get_state().decode()}}", flush=True)
        signal.pause()
"""


@pytest.fixture(scope="session")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official SDK, for whoever runs in a container."""
    made = tmp_path_factory.mktemp("sdk") / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--target", made]
    pinned = ["-c", REPOSITORY / "constraints.txt", "azure-servicebus"]
    subprocess.run(list(map(str, [*pip, *pinned])), check=True)
    made.chmod(0o755)
    return made


KEY = base64.b64encode(b"renewer at the gateway, 32 bytes").decode()
SECRET_OF_WORKER = "renewer-of-worker"


def documents(sdk: Path) -> list[Document]:
    """The manifests, with the SDK in the worker's container."""
    made = lowered(built("gateway"), worker=WORKER, secrets={"servicebus": "eA==", "gateway": KEY})
    spec = pod_of(made)
    worker = container(spec, "worker")
    worker["env"].append({"name": "PYTHONPATH", "value": "/sdk"})
    worker["volumeMounts"].append({"name": "sdk", "mountPath": "/sdk", "readOnly": True})
    spec["volumes"].append({"name": "sdk", "hostPath": {"path": str(sdk), "type": "Directory"}})
    key = next(each for each in worker["env"] if each["name"] == "RENEWER_GATEWAY_KEY")
    assert key["valueFrom"]["secretKeyRef"] == {"name": "renewer", "key": "gateway"}
    key["valueFrom"]["secretKeyRef"]["name"] = SECRET_OF_WORKER
    return made


@pytest.fixture
def pod(net: Net, sdk: Path) -> Iterator[Pod]:
    """The Pod, up."""
    # podman 4.3 cannot read a Secret that it made of a manifest into a variable: this one is made in its own way.
    secret = json.dumps({"gateway": base64.b64encode(KEY.encode()).decode()})
    net("secret", "create", SECRET_OF_WORKER, "-", stdin=secret)
    try:
        with played(net, documents(sdk)) as pod:
            yield pod
    finally:
        net("secret", "rm", SECRET_OF_WORKER)


def test_a_worker_that_blocks_keeps_its_session_through_the_gateway(pod: Pod) -> None:
    until(lambda: "holding customer-42" in pod.log("worker"), what=pod.told)
    (lease,) = json.loads(pod.exec("renewer", "renewer", "lease", "ls", "-o", "json").stdout)
    assert (lease["kind"], lease["session_id"]) == ("session", "customer-42")

    # It has the key of the gateway, and not that of the cloud.
    assert pod.exec("renewer", "cat", "/run/secrets/renewer/gateway").stdout == KEY
    assert pod.exec("worker", "ls", "/run/secrets/renewer", check=False).returncode != 0
    assert CONNECTION not in pod.exec("worker", "env").stdout

    until(lambda: "completed an order, then done" in pod.log("worker"), what=pod.told)
    counted = pod.broker()
    assert (counted["sessions_held"], counted["locks_expired"]) == (1, 0)
    assert counted["renewals"] >= BLOCKED_S / LOCK_S

    # The worker ends: its session is free, for whoever comes next.
    assert pod.stop("worker", within_s=5) == 0
    until(lambda: pod.broker()["sessions_held"] == 0, what=pod.told)
    assert pod.stop("renewer", within_s=2) == 0
    assert "lease lost" not in pod.log("renewer")
