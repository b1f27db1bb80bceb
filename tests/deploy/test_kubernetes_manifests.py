"""The manifests, put together by Kustomize and by Helm, against the schemas of Kubernetes and what they promise."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import (
    NATIVE_VERSIONS,
    OVERLAYS,
    PLAIN_VERSIONS,
    SIDECAR,
    Document,
    built,
    check_strictly,
    container,
    pod_of,
    rendered,
    the,
)

pytestmark = pytest.mark.deploy

GUID = "2f1a8a0c-3b3f-4f0e-9d0b-5c7f6f1f0b11"
EVERYTHING: Document = {
    "imagePullSecrets": [{"name": "pull"}],
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "workloadIdentity": {"clientId": GUID, "tenantId": GUID},
    "gateway": {"enabled": True},
    "podLabels": {"team": "billing"},
    "podAnnotations": {"note": "1"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "worker": {
        "command": ["python3"],
        "args": ["-m", "work"],
        "env": [{"name": "A", "value": "b"}],
        "envFrom": [{"configMapRef": {"name": "worker"}}],
    },
    "networkPolicy": {"extraEgress": [{"ports": [{"port": 6379, "protocol": "TCP"}]}]},
}
CHARTS: dict[str, Document] = {
    "as it is": {},
    "everything": EVERYTHING,
    "plain": {"nativeSidecar": False, "secret": "", "networkPolicy": {"enabled": False}},
}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_is_valid_for_three_versions_of_kubernetes(overlay: str, tmp_path: Path) -> None:
    documents = built(overlay)
    for version in PLAIN_VERSIONS if overlay == "plain-sidecar" else NATIVE_VERSIONS:
        check_strictly(documents, version, tmp_path)
    check_promises(documents)


@pytest.mark.parametrize("values", CHARTS.values(), ids=CHARTS)
def test_the_chart_is_valid_for_three_versions_of_kubernetes(values: Document, tmp_path: Path) -> None:
    documents = rendered(tmp_path, values)
    for version in NATIVE_VERSIONS if values.get("nativeSidecar", True) else PLAIN_VERSIONS:
        check_strictly(documents, version, tmp_path)
    check_promises(documents)


def check_promises(documents: list[Document]) -> None:
    """What all of them have in common."""
    pod = pod_of(documents)
    renewer, worker = container(pod, SIDECAR), container(pod, "worker")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["fsGroup"] == renewer["securityContext"]["runAsGroup"] == 65532
    assert pod["automountServiceAccountToken"] is False
    for each in (renewer, worker):
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
        assert each["securityContext"]["allowPrivilegeEscalation"] is False
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert each["securityContext"]["runAsGroup"] > 0
        assert "memory" in each["resources"]["limits"]
        assert {"name": "renewer-run", "mountPath": "/run/renewer"} in each["volumeMounts"]
    mounted = {mount["name"] for each in (renewer, worker) for mount in each["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    secret = {"name": "renewer-secrets", "mountPath": "/run/secrets/renewer", "readOnly": True}
    assert secret not in worker["volumeMounts"]
    for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        assert renewer[probe]["httpGet"] == {"path": path, "port": "metrics"}
    config = tomllib.loads(next(iter(the(documents, "ConfigMap")["data"].values())))
    assert config["metrics"]["listen"] == f"0.0.0.0:{renewer['ports'][0]['containerPort']}"
    stop_s = int(config["daemon"]["stop_timeout"].removesuffix("s"))
    assert stop_s + 3 <= pod["terminationGracePeriodSeconds"]
    labels = the(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for kind, path in (("NetworkPolicy", "podSelector"), ("PodMonitor", "selector")):
        for document in documents:
            if document["kind"] == kind:
                assert document["spec"][path]["matchLabels"].items() <= labels.items()


def test_a_worker_may_be_let_write_to_its_own_root_and_renewer_not(tmp_path: Path) -> None:
    pod = pod_of(rendered(tmp_path, {"worker": {"readOnlyRootFilesystem": False}}))
    assert container(pod, "worker")["securityContext"]["readOnlyRootFilesystem"] is False
    assert container(pod, SIDECAR)["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("source", ["sidecar", "chart"])
def test_a_native_sidecar_starts_before_the_worker_and_ends_after_it(source: str, tmp_path: Path) -> None:
    pod = pod_of(_made(source, tmp_path, {}))
    assert [(each["name"], each["restartPolicy"]) for each in pod["initContainers"]] == [(SIDECAR, "Always")]
    assert [each["name"] for each in pod["containers"]] == ["worker"]


@pytest.mark.parametrize("source", ["plain-sidecar", "chart"])
def test_a_plain_sidecar_waits_for_the_worker_before_it_stops(source: str, tmp_path: Path) -> None:
    pod = pod_of(_made(source, tmp_path, {"nativeSidecar": False}))
    assert "initContainers" not in pod
    renewer = container(pod, SIDECAR)
    assert "restartPolicy" not in renewer
    command = renewer["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:3] == ["renewer", "drain", "--wait"]
    assert int(command[3].removesuffix("s")) + 18 <= pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("source", ["gateway", "chart"])
def test_a_worker_behind_the_gateway_has_another_connection_string_and_no_key_of_the_cloud(
    source: str, tmp_path: Path
) -> None:
    pod = pod_of(_made(source, tmp_path, {"gateway": {"enabled": True}}))
    environment = {each["name"]: each for each in container(pod, "worker")["env"]}
    assert environment["RENEWER_GATEWAY_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "renewer", "key": "gateway"}
    assert environment["SERVICEBUS_CONNECTION_STRING"]["value"] == (
        "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=local;"
        "SharedAccessKey=$(RENEWER_GATEWAY_KEY);UseDevelopmentEmulator=true"
    )
    names = list(environment)
    assert names.index("RENEWER_GATEWAY_KEY") < names.index("SERVICEBUS_CONNECTION_STRING")


@pytest.mark.parametrize("source", ["workload-identity", "chart"])
def test_with_workload_identity_there_is_no_secret(source: str, tmp_path: Path) -> None:
    values = {"workloadIdentity": {"clientId": GUID}, "secret": ""}
    documents = _made(source, tmp_path, values)
    account: dict[str, Any] = the(documents, "ServiceAccount")
    assert "azure.workload.identity/client-id" in account["metadata"]["annotations"]
    template = the(documents, "Deployment")["spec"]["template"]
    assert template["metadata"]["labels"]["azure.workload.identity/use"] == "true"
    assert template["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert all("secret" not in volume for volume in template["spec"]["volumes"])


def _made(source: str, folder: Path, values: Document) -> list[Document]:
    return rendered(folder, values) if source == "chart" else built(source)
