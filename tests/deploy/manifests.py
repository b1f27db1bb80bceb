"""The manifests of deploy/kubernetes and deploy/helm, as tools put them together."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import REPOSITORY, TOOLS, tool

KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
CHART = REPOSITORY / "deploy" / "helm" / "renewer"
OVERLAYS = ("gateway", "plain-sidecar", "sidecar", "workload-identity")
NATIVE_VERSIONS = ("1.29", "1.31", "1.33")
PLAIN_VERSIONS = ("1.27", "1.29", "1.33")
SIDECAR = "renewer"

Document = dict[str, Any]


def built(overlay: str) -> list[Document]:
    """What Kustomize makes of an overlay."""
    made = subprocess.run(
        [
            tool("kubectl", "any of 1.21 or later, for its kustomize"),
            "kustomize",
            str(KUBERNETES / "overlays" / overlay),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Component" in made.stderr and made.returncode != 0:
        pytest.skip("needs a kubectl of 1.21 or later")
    assert made.returncode == 0, made.stderr
    return [document for document in yaml.safe_load_all(made.stdout) if document]


def rendered(folder: Path, values: Document) -> list[Document]:
    """What Helm makes of the chart with these values; `folder` is for a copy of it.

    There is no `helm template` in the package: the copy has one template more, which hands what the others give to
    `fail`, and the linter prints that.
    """
    python = TOOLS / "helm" / "bin" / "python"
    if not python.exists():
        pytest.skip("needs helm-sdkpy, and that Python 3.12: deploy/install-test-tools.sh installs it where it can")
    chart = folder / "renewer"
    shutil.copytree(CHART, chart, dirs_exist_ok=True)
    merged = _merged(yaml.safe_load((CHART / "values.yaml").read_text()), values)
    (chart / "values.yaml").write_text(yaml.safe_dump(merged))
    names = sorted(path.stem for path in (CHART / "templates").glob("*.yaml"))
    quoted = " ".join(f'"{name}"' for name in names)
    (chart / "templates" / "zz-shown.yaml").write_text(
        f"{{{{- range list {quoted} }}}}\n"
        '{{- fail (print "<<" (include (printf "%s/%s.yaml" $.Template.BasePath .) $ | b64enc) ">>") }}\n{{- end }}\n'
    )
    linted = subprocess.run([python, "-c", _LINT, str(chart)], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stderr
    found = json.loads(linted.stdout.splitlines()[-1])
    # 1 is advice (there is no icon).
    assert [message for message in found["Messages"] or [] if message["Severity"] > 1] == [], linted.stdout
    assert not found["Errors"], linted.stdout
    texts = [base64.b64decode(text).decode() for text in re.findall("<<([A-Za-z0-9+/=]*)>>", linted.stderr)]
    assert len(texts) == len(names), linted.stderr
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def check_strictly(documents: Iterable[Document], version: str, folder: Path) -> None:
    """Hold them against the schemas of a Kubernetes version: unknown fields are mistakes."""
    own = [document for document in documents if document["kind"] != "PodMonitor"]  # has no schema in Kubernetes
    assert own
    file = folder / f"{version}.yaml"
    file.write_text(yaml.safe_dump_all(own))
    command = [tool("kubernetes-validate"), "--strict", "-k", version, str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert (checked.stdout + checked.stderr).count(" passed ") == len(own)


def the(documents: Iterable[Document], kind: str) -> Document:
    """The one document of a kind."""
    found = [document for document in documents if document["kind"] == kind]
    assert len(found) == 1, f"{len(found)} of {kind}"
    return found[0]


def pod_of(documents: Iterable[Document]) -> Document:
    """The Pod's specification in the Deployment."""
    spec: Document = the(documents, "Deployment")["spec"]["template"]["spec"]
    return spec


def container(pod: Document, name: str) -> Document:
    """The container of that name, whichever kind it is."""
    found = [each for each in [*pod.get("initContainers", []), *pod["containers"]] if each["name"] == name]
    assert len(found) == 1
    one: Document = found[0]
    return one


_LINT = """
import inspect, json, sys, asyncio
from helm_sdkpy import Configuration, Lint

async def lint():
    answer = Lint(Configuration(kubeconfig="/dev/null")).run(sys.argv[1])
    return await answer if inspect.isawaitable(answer) else answer

print(json.dumps(asyncio.run(lint())))
"""


def _merged(below: Document, above: Document) -> Document:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
