"""The Pod of the sidecar overlay, run by podman with a worker in it that uses renewer.client over the shared socket."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.deploy.containers import IMAGE, Net, until
from tests.deploy.manifests import Document, built, container, pod_of, the

pytestmark = pytest.mark.deploy

POD = "worker-pod-0"
CONNECTION = (
    "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
)

WORKER = """
import signal, sys
from renewer.client import Client

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with Client() as client, client.session("orders", "customer-42") as session:
    session.set_state(b"step 1")
    print("holding", session.session_id, flush=True)
    signal.pause()
"""

STATE = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8323/_emulator/state').read().decode())"


@pytest.fixture
def pod(net: Net) -> Iterator[Net]:
    """The Pod, up."""
    manifest = "\n---\n".join(map(json.dumps, lowered(built("sidecar"))))
    net("kube", "play", "--log-driver=k8s-file", "-", stdin=manifest)
    yield net
    net("kube", "down", "-", stdin=manifest, check=False)


def lowered(documents: list[Document]) -> list[Document]:
    """The manifests with what podman 4.3 does not know put in words that it does.

    It would wait for a native sidecar to end, leaves fsGroup out, and hands on Secrets as they are encoded. An emulator
    runs in the Pod, in place of a namespace.
    """
    deployment, config = the(documents, "Deployment"), the(documents, "ConfigMap")
    config["data"]["config.toml"] = (
        f'[metrics]\nlisten = "0.0.0.0:9464"\n[servicebus.main]\nconnection_string = "{CONNECTION}"\n'
    )
    spec = pod_of(documents)
    renewer, worker = container(spec, "renewer"), container(spec, "worker")
    del spec["initContainers"], renewer["restartPolicy"]
    renewer["image"] = worker["image"] = IMAGE
    worker["command"] = ["python3", "-c", WORKER.strip()]  # it stumbles over a text that begins with an empty line
    worker["securityContext"]["runAsGroup"] = spec["securityContext"]["fsGroup"]
    emulator = {
        "name": "emulator",
        "image": IMAGE,
        "args": ["emulator", "--queue", "orders:session", "--lock-duration", "5s"],
        "securityContext": renewer["securityContext"],
    }
    spec["containers"] = [emulator, renewer, worker]
    deployment["spec"]["replicas"] = 1
    for volume in spec["volumes"]:
        if "secret" in volume:
            volume["secret"]["optional"] = False
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "renewer"}, "data": {"servicebus": "eA=="}}
    return [secret, config, deployment]


def held(net: Net) -> int:
    """How many sessions the emulator's broker has given to somebody."""
    asked = net("exec", f"{POD}-emulator", "python3", "-c", STATE, check=False)
    return int(json.loads(asked.stdout)["servicebus"]["counters"]["sessions_held"]) if asked.returncode == 0 else -1


def test_a_worker_uses_the_sidecar_over_the_shared_socket(pod: Net) -> None:
    def told() -> str:
        return "\n".join(pod("logs", f"{POD}-{name}", check=False).stdout for name in ("emulator", "renewer", "worker"))

    until(lambda: "holding customer-42" in pod("logs", f"{POD}-worker").stdout, what=told)
    assert held(pod) == 1
    assert pod("exec", f"{POD}-worker", "renewer", "health").returncode == 0
    assert int(pod("exec", f"{POD}-worker", "id", "-u").stdout) == 10001

    # The worker ends, as in a rolling update: its session is free at once, and the next one takes it.
    before = pod("exec", f"{POD}-renewer", "renewer", "status", "-o", "json").stdout
    pod("stop", "--time", "5", f"{POD}-worker")
    assert pod.state(f"{POD}-worker")["ExitCode"] == 0
    until(lambda: held(pod) == 0, what=told)
    pod("start", f"{POD}-worker")
    until(lambda: held(pod) == 1, what=told)
    assert json.loads(before)["losses"] == 0

    pod("stop", "--time", "2", f"{POD}-renewer")
    assert pod.state(f"{POD}-renewer")["ExitCode"] == 0
    assert held(pod) == 0
