"""The rules, dashboards and runbook beside the daemon's own metrics: nothing is forgotten, and nothing is made up."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from renewer.api.control import PoolReading
from renewer.config import load
from renewer.daemon.app import Daemon
from renewer.observe import Metrics

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))


def rules(name):
    document = yaml.safe_load((MONITORING / "rules" / name).read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels(path):
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def expressions():
    found = [rule["expr"] for name in ("alerts.yaml", "recording.yaml") for rule in rules(name)]
    for path in DASHBOARDS:
        found += [target["expr"] for panel in panels(path) for target in panel["targets"]]
    return found


def names_in(text):
    """The metrics that are named in a text, without what histograms add."""
    names = re.findall(r"(?<![\w:])(?:renewer|process|python)_[a-z0-9_]+", text)
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """What a daemon exports, by name as Prometheus has it."""
    folder = tmp_path_factory.mktemp("state")
    settings = load(
        None,
        environ={},
        overrides={
            "daemon": {"state_dir": str(folder)},
            "servicebus": {
                "main": {
                    "connection_string": "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=local;"
                    "SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
                }
            },
            "fabric": {"main": {"token": "local"}},
        },
    )
    daemon = Daemon(settings, log_sink=Lines())
    return named(daemon.metrics)


@pytest.fixture(scope="module")
def of_some():
    """What is exported beside that where a gateway and a pool are configured."""
    metrics = Metrics(CollectorRegistry())
    before = named(metrics)
    metrics.watch_gateways(lambda: [Gateway()])
    metrics.watch_pools(lambda: [PoolReading("servicebus.main", "orders", 1, 0, 0, 1)])
    return named(metrics) - before


class Lines:
    lost = 0


class Gateway:
    name = "main"
    connections = upstream_failures = messages = buffered_bytes = 0
    refusals = MappingProxyType({})


def named(metrics):
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


def test_the_files_are_what_the_generator_writes():
    done = subprocess.run([sys.executable, MONITORING / "build.py", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_that_was_changed_by_hand_is_noticed(tmp_path):
    copy = shutil.copytree(MONITORING, tmp_path / "monitoring")
    with (copy / "rules" / "alerts.yaml").open("a") as file:
        file.write("# mine\n")
    (copy / "dashboards" / "fleet.json").unlink()
    done = subprocess.run([sys.executable, copy / "build.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "rules/alerts.yaml, dashboards/fleet.json" in done.stderr


def test_another_job_and_runbook_are_used_everywhere(tmp_path):
    arguments = ["--out", str(tmp_path), "--job", "workers", "--runbook", "https://wiki.example/renewer"]
    subprocess.run([sys.executable, MONITORING / "build.py", *arguments], check=True)
    written = "".join(path.read_text() for path in tmp_path.rglob("*.yaml"))
    assert 'up{job="workers"}' in written
    assert "https://wiki.example/renewer#leaselost" in written
    assert 'job="renewer"' not in written
    assert "docs/runbook.md" not in written


def test_pods_are_scraped_as_the_job_that_the_rules_look_for():
    monitor = yaml.safe_load((ROOT / "deploy/kubernetes/components/pod-monitor/podmonitor.yaml").read_text())
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "renewer"}]
    assert 'up{job="renewer"}' in (MONITORING / "rules" / "alerts.yaml").read_text()


def test_every_metric_of_the_daemon_is_on_a_dashboard_or_in_an_alert_or_documented_as_for_debugging(exported, of_some):
    debugging = (MONITORING / "README.md").read_text().split("For debugging alone")[1].split("\n\n")[0]
    used = names_in("\n".join(expressions()))
    for_debugging = names_in(debugging)
    assert for_debugging <= exported
    assert (exported | of_some) - used - for_debugging == set()
    assert not used & for_debugging


def test_no_expression_asks_for_a_metric_that_there_is_not(exported, of_some):
    recorded = {rule["record"] for rule in rules("recording.yaml")}
    for expression in expressions():
        assert names_in(expression) <= exported | of_some
        assert set(re.findall(r"\w+:\w+:\w+", expression)) <= recorded


def test_every_metric_is_explained_in_the_readme(exported, of_some):
    text = (MONITORING / "README.md").read_text()
    # "`…_refusals_total`" goes on from the name before it.
    text += "".join(f" renewer_gateway{part}" for part in re.findall(r"…(_[a-z_]+)", text))
    missing = {name for name in exported | of_some if name not in text and not name.startswith("process_")}
    assert missing == set()


def test_every_alert_has_what_people_need_and_an_entry_in_the_runbook():
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    entries = re.findall(r"^### (\w+)$", runbook, re.MULTILINE)
    alerts = rules("alerts.yaml")
    assert sorted(entries) == sorted(alert["alert"] for alert in alerts)
    assert len(set(entries)) == len(entries)
    for alert in alerts:
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        assert alert["labels"]["component"] == "renewer"
        notes = alert["annotations"]
        assert notes["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"
        assert notes["summary"]
        assert notes["description"].endswith(".")
        assert "$labels.instance" in notes["description"] or alert["alert"] == "RenewerAbsent"
    for section in runbook.split("\n### ")[1:]:
        assert "**Meaning.**" in section
        assert re.search(r"\*\*(Look|Do|Look and do)\.\*\*", section)


def test_every_alert_has_a_case_that_fires_it_and_one_that_does_not():
    cases = [
        test["alert_rule_test"][0]
        for path in (MONITORING / "tests").glob("*.yaml")
        for test in yaml.safe_load(path.read_text())["tests"]
    ]
    for alert in rules("alerts.yaml"):
        mine = [case["exp_alerts"] for case in cases if case["alertname"] == alert["alert"]]
        assert sum(bool(expected) for expected in mine) == 1
        assert sum(not expected for expected in mine) >= 1


def test_panels_that_the_runbook_names_exist():
    text = (ROOT / "docs" / "runbook.md").read_text()
    titles = {panel["title"] for path in DASHBOARDS for panel in panels(path)}
    named = {" ".join(name.split()) for name in re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", text)}
    outside = {"Status → Targets", "Azure Service Bus Data Receiver"}
    assert named - titles == outside


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path):
    page = json.loads(path.read_text())
    assert page["schemaVersion"] == 42
    assert page["uid"] == f"renewer-{path.stem}"
    variables = {variable["name"]: variable for variable in page["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert variables["instance"]["multi"] == (path.stem == "fleet")
    ids = [panel["id"] for panel in page["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in page["panels"]:
        place = panel["gridPos"]
        squares = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert all(x < 24 for x, _ in squares)
        assert not taken & squares
        taken |= squares


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_has_a_unit_a_description_and_asks_the_chosen_source_for_the_chosen_daemons(path):
    units = {"short", "s", "ops", "percentunit", "bytes", "none", "dateTimeFromNow", "bool_yes_no"}
    for panel in panels(path):
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in units, panel["title"]
        assert defaults["thresholds"]["steps"][0]["value"] is None
        values = [step["value"] for step in defaults["thresholds"]["steps"][1:]]
        assert values == sorted(values)
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert '"$job"' in target["expr"] or "ALERTS" in target["expr"]


def test_half_of_the_panels_and_all_that_count_what_must_not_be_have_a_threshold():
    bad = (
        "_losses",
        "at_risk_total",
        "_failures",
        "_failing",
        "_pauses",
        "lines_lost",
        "_in_trouble",
        "_lag_",
        "_lateness_",
    )
    for path in DASHBOARDS:
        steps = {panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"] for panel in panels(path)}
        for panel in panels(path):
            text = " ".join(target["expr"] for target in panel["targets"])
            if panel["type"] != "heatmap" and any(word in text for word in bad):
                assert len(steps[panel["title"]]) > 1, panel["title"]
        assert sum(len(those) > 1 for those in steps.values()) >= len(steps) / 2
