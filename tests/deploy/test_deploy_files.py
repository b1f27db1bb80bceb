"""What can be said of the files under deploy/ without running anything."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

import renewer
from renewer.cli.exitcodes import ExitCode
from renewer.config import load

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "renewer"
UNIT = (DEPLOY / "systemd" / "renewer.service").read_text()
CONTAINERFILE = (DEPLOY / "container" / "Containerfile").read_text()


def settings() -> dict[str, list[str]]:
    """The unit's settings, each with its values."""
    found: dict[str, list[str]] = {}
    for line in UNIT.splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def the(name: str) -> str:
    (value,) = settings()[name]
    return value


def test_the_unit_is_understood_by_the_systemd_of_debian_12() -> None:
    # notify-reload is refused by 252, which then takes the unit for Type=simple.
    assert the("Type") == "notify"
    assert the("ExecReload") == "/bin/kill -HUP $MAINPID"


def test_the_unit_keeps_what_others_depend_on() -> None:
    # "pid" hides /proc/stat, and with it every process_* metric.
    assert the("ProcSubset") == "all"
    # DynamicUser would put the socket below a directory that only root may enter.
    assert "DynamicUser" not in settings()
    assert (the("User"), the("Group")) == ("renewer", "renewer")
    assert (the("RuntimeDirectory"), the("RuntimeDirectoryMode")) == ("renewer", "0750")
    assert (the("StateDirectory"), the("StateDirectoryMode")) == ("renewer", "0700")
    assert the("LimitCORE") == "0"


def test_the_unit_is_not_started_again_where_that_cannot_help() -> None:
    codes = {int(code) for code in the("RestartPreventExitStatus").split()}
    assert codes == {ExitCode.USAGE, ExitCode.NO_PERMISSION, ExitCode.CONFIG}


def test_the_unit_and_the_image_wait_for_as_long_as_a_stop_may_take() -> None:
    stop_s = load(None, environ={}, overrides={}).daemon.stop_timeout.total_seconds()
    assert int(the("TimeoutStopSec").removesuffix("s")) > stop_s + 3


def test_the_unit_and_the_image_keep_things_in_the_same_places() -> None:
    unit = " ".join(settings()["Environment"]).replace("%S", "/var/lib").replace("%t", "/run")
    for setting in ("RENEWER_DAEMON__STATE_DIR=/var/lib/renewer", "RENEWER_API__LISTEN=unix:/run/renewer/renewer.sock"):
        assert setting in unit
        assert setting in CONTAINERFILE
    assert 'VOLUME ["/var/lib/renewer", "/run/renewer"]' in CONTAINERFILE


def test_the_environment_file_sets_nothing_by_itself() -> None:
    lines = (DEPLOY / "systemd" / "renewer.env").read_text().splitlines()
    assert all(not line or line.startswith("#") for line in lines)


def test_the_image_names_no_registry_and_runs_as_a_number() -> None:
    bases = re.findall(r"^FROM (\S+)", CONTAINERFILE, flags=re.MULTILINE)
    assert bases == ["python:${PYTHON}"] * 2
    assert "\nUSER 65532:65532\n" in CONTAINERFILE
    assert "renewer" in CONTAINERFILE.rpartition("HEALTHCHECK")[2]


def test_everything_that_the_image_is_built_of_is_pinned() -> None:
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())
    pinned = set(re.findall(r"^([a-z0-9.-]+)==", (DEPLOY.parent / "constraints.txt").read_text(), flags=re.MULTILINE))
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    assert {re.split(r"[^a-z0-9.-]", name)[0] for name in wanted} <= pinned
    for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):
        assert f"{name}=/src/constraints.txt" in CONTAINERFILE


def manifests() -> Iterator[Path]:
    return (DEPLOY / "kubernetes").rglob("*.yaml")


def test_every_manifest_is_yaml_and_every_file_that_one_names_is_there() -> None:
    seen = 0
    for path in manifests():
        for document in yaml.safe_load_all(path.read_text()):
            assert "kind" in document, path
            named = [*document.get("resources", []), *document.get("components", [])]
            for generator in document.get("configMapGenerator", []):
                named += generator["files"]
            for name in named if path.name == "kustomization.yaml" else []:
                assert (path.parent / name).exists(), f"{path}: {name}"
            seen += 1
    assert seen > 10


def configurations() -> dict[str, str]:
    found = {str(path.relative_to(DEPLOY)): path.read_text() for path in (DEPLOY / "kubernetes").rglob("*.toml")}
    return {**found, "chart": values()["config"]}


def values() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return read


@pytest.mark.parametrize("name", ["chart", *(str(p.relative_to(DEPLOY)) for p in DEPLOY.rglob("kubernetes/**/*.toml"))])
def test_every_configuration_has_no_mistakes(name: str, tmp_path: Path) -> None:
    secrets = {
        "servicebus": "Endpoint=sb://contoso.servicebus.windows.net;SharedAccessKeyName=a;SharedAccessKey=bG9jYWw=",
        "gateway": "cmVuZXdlciBhdCB0aGUgZ2F0ZXdheSwgMzIgYnl0ZXM=",
    }
    for file, secret in secrets.items():
        (tmp_path / file).write_text(secret)
    config = tmp_path / "config.toml"
    config.write_text(configurations()[name].replace("/run/secrets/renewer", str(tmp_path)))
    environ = {"RENEWER_DAEMON__STATE_DIR": str(tmp_path), "RENEWER_API__LISTEN": f"unix:{tmp_path}/s"}
    environ |= {"AZURE_CLIENT_ID": "a", "AZURE_TENANT_ID": "b", "AZURE_FEDERATED_TOKEN_FILE": str(config)}
    loaded = load(config, environ=environ, overrides={})
    assert loaded.metrics.listen is not None
    assert loaded.metrics.listen.port == 9464
    assert list(loaded.servicebus) == ["main"]
    if "gateway" in name:
        assert tomllib.loads(config.read_text())["gateway"][0]["listen"] == "127.0.0.1:5672"


def test_the_chart_is_of_the_version_that_it_installs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == renewer.__version__


def schema() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return read


def test_the_chart_s_own_values_follow_its_schema_and_are_all_in_it() -> None:
    jsonschema_rs.validate(schema(), values())
    assert set(schema()["properties"]) - {"global"} == set(values())
    for name, described in schema()["properties"].items():
        if "properties" in described:
            assert set(described["properties"]) == set(values()[name]), name


@pytest.mark.parametrize(
    "wrong",
    [
        {"nativeSidecars": True},
        {"image": {"repository": ""}},
        {"image": {"repository": "r", "pullPolicy": "Sometimes"}},
        {"worker": {"image": "w", "replicas": -1}},
        {"worker": {"image": "w", "runAsUser": 0}},
        {"worker": {"image": "w", "readOnlyRootFilesystem": "no"}},
        {"gateway": {"enabled": "yes"}},
        {"gateway": {"port": 70_000}},
        {"workloadIdentity": {"clientId": "me"}},
        {"resources": {"limits": {"memory": "much"}}},
        {"podMonitor": {"interval": "soon"}},
        {"terminationGracePeriodSeconds": 5},
        {"config": ""},
    ],
)
def test_values_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(schema(), {**values(), **wrong})
