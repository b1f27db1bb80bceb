"""Pods of deploy/kubernetes, run by podman with an emulator in place of a namespace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.deploy.containers import IMAGE, Net
from tests.deploy.manifests import Document, container, pod_of, the

POD = "worker-pod-0"
EMULATOR_PORT = 5680
CONNECTION = (
    f"Endpoint=sb://127.0.0.1:{EMULATOR_PORT};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;"
    "UseDevelopmentEmulator=true"
)
LOCK_S = 5

_STATE = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8323/_emulator/state').read().decode())"


class Pod:
    """A Pod that runs."""

    def __init__(self, net: Net) -> None:
        self.net = net

    def exec(self, name: str, *command: str, check: bool = True) -> Any:
        """Run a command in a container of it."""
        return self.net("exec", f"{POD}-{name}", *command, check=check)

    def log(self, name: str) -> str:
        """What a container of it has said."""
        ended = self.net("logs", f"{POD}-{name}", check=False)
        return f"{ended.stdout}{ended.stderr}"

    def told(self) -> str:
        """What all of them have said."""
        return "\n".join(self.log(name) for name in ("emulator", "renewer", "worker"))

    def stop(self, name: str, *, within_s: int) -> int:
        """Stop a container of it; its exit code, 137 if it had to be killed."""
        self.net("stop", "--time", str(within_s), f"{POD}-{name}")
        return int(self.inspect(name)["State"]["ExitCode"])

    def inspect(self, name: str) -> dict[str, Any]:
        """What podman knows of a container of it."""
        return self.net.inspect(f"{POD}-{name}")

    def start(self, name: str) -> None:
        """Start a container of it that has stopped."""
        self.net("start", f"{POD}-{name}")

    def broker(self) -> dict[str, Any]:
        """What the emulator's broker has counted; empty while it does not answer."""
        asked = self.exec("emulator", "python3", "-c", _STATE, check=False)
        counters: dict[str, Any] = json.loads(asked.stdout)["servicebus"]["counters"] if asked.returncode == 0 else {}
        return counters


@contextmanager
def played(net: Net, documents: list[Document]) -> Iterator[Pod]:
    """The Pod of these manifests, up."""
    manifest = "\n---\n".join(map(json.dumps, documents))
    net("kube", "play", "--log-driver=k8s-file", "-", stdin=manifest)
    yield Pod(net)
    net("kube", "down", "-", stdin=manifest, check=False)


def lowered(documents: list[Document], *, worker: str, secrets: dict[str, str]) -> list[Document]:
    """The manifests with what podman 4.3 does not know put in words that it does, and `worker`'s text as the worker.

    It would wait for a native sidecar to end, leaves fsGroup out, and hands on Secrets as they are encoded: `secrets`
    are given encoded. An emulator runs in the Pod, in place of a namespace.
    """
    deployment, config = the(documents, "Deployment"), the(documents, "ConfigMap")
    text = config["data"]["config.toml"]
    by_file = 'connection_string_file = "/run/secrets/renewer/servicebus"'
    assert by_file in text
    config["data"]["config.toml"] = text.replace(by_file, f'connection_string = "{CONNECTION}"')
    spec = pod_of(documents)
    renewer, app = container(spec, "renewer"), container(spec, "worker")
    del spec["initContainers"], renewer["restartPolicy"]
    renewer["image"] = app["image"] = IMAGE
    app["command"] = ["python3", "-c", worker.strip()]  # it stumbles over a text that begins with an empty line
    app["securityContext"]["runAsGroup"] = spec["securityContext"]["fsGroup"]
    emulator = {
        "name": "emulator",
        "image": IMAGE,
        "args": [
            *("emulator", "--amqp", f"127.0.0.1:{EMULATOR_PORT}"),
            *("--queue", "orders:session", "--lock-duration", f"{LOCK_S}s"),
        ],
        "securityContext": renewer["securityContext"],
    }
    spec["containers"] = [emulator, renewer, app]
    deployment["spec"]["replicas"] = 1
    for volume in spec["volumes"]:
        if "secret" in volume:
            volume["secret"]["optional"] = False
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "renewer"}, "data": secrets}
    return [secret, config, deployment]
