"""Writes the rules, their tests and the dashboards beside it, from `mixin/`.

    python3 deploy/monitoring/build.py [--check] [--out FOLDER] [--job NAME] [--runbook URL]

Needs nothing but Python, and writes the same bytes every time. `--check` writes nothing and fails where a file is not
up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

if __package__:
    from .mixin.daemon_alerts import DAEMON_ALERTS, GATEWAY_ALERTS
    from .mixin.fleet import fleet
    from .mixin.instance import instance
    from .mixin.lease_alerts import LEASE_ALERTS
    from .mixin.operation_alerts import OPERATION_ALERTS
    from .mixin.recording import RECORDS
    from .mixin.shapes import JOB, RUNBOOK, Alert, Case, rendered
else:
    from mixin.daemon_alerts import DAEMON_ALERTS, GATEWAY_ALERTS
    from mixin.fleet import fleet
    from mixin.instance import instance
    from mixin.lease_alerts import LEASE_ALERTS
    from mixin.operation_alerts import OPERATION_ALERTS
    from mixin.recording import RECORDS
    from mixin.shapes import JOB, RUNBOOK, Alert, Case, rendered

HERE = Path(__file__).resolve().parent

GROUPS: dict[str, Sequence[Alert]] = {
    "leases": LEASE_ALERTS,
    "operations": OPERATION_ALERTS,
    "daemon": DAEMON_ALERTS,
    "gateway": GATEWAY_ALERTS,
}

_WRITTEN = "# Written by deploy/monitoring/build.py from deploy/monitoring/mixin: change it there.\n"


def files(runbook: str = RUNBOOK) -> dict[str, str]:
    """Every file, by its path beside this one."""
    texts = {
        "rules/recording.yaml": _recording(),
        "rules/alerts.yaml": _alerts(runbook),
        "dashboards/fleet.json": _json(fleet()),
        "dashboards/instance.json": _json(instance()),
    }
    for name, alerts in GROUPS.items():
        texts[f"tests/{name}.yaml"] = _tests(alerts, runbook)
    return texts


def _recording() -> str:
    lines = ["groups:", "  - name: renewer.recording", "    interval: 30s", "    rules:"]
    for rule in RECORDS:
        lines += [f"      - record: {rule.name}", "        expr: |-", f"          {rule.expr}"]
    return _WRITTEN + "\n".join(lines) + "\n"


def _alerts(runbook: str) -> str:
    lines = ["groups:"]
    for name, alerts in GROUPS.items():
        lines += [f"  - name: renewer.{name}", "    rules:"]
        for alert in alerts:
            lines += [f"      - alert: {alert.name}", "        expr: |-", f"          {alert.expr}"]
            if alert.lasts != "0m":
                lines.append(f"        for: {alert.lasts}")
            lines += ["        labels:", f"          severity: {alert.severity}", "          component: renewer"]
            lines += ["        annotations:", *_annotations(alert, runbook, "          ", None)]
    return _WRITTEN + "\n".join(lines) + "\n"


def _annotations(alert: Alert, runbook: str, indent: str, case: Case | None) -> Iterator[str]:
    for name, text in (("summary", alert.summary), ("description", alert.description)):
        shown = text if case is None else rendered(text, case)
        yield f"{indent}{name}: {json.dumps(shown, ensure_ascii=False)}"
    yield f"{indent}runbook_url: {json.dumps(f'{runbook}#{alert.anchor}')}"


def _tests(alerts: Iterable[Alert], runbook: str) -> str:
    lines = [
        "rule_files:",
        "  - ../rules/recording.yaml",
        "  - ../rules/alerts.yaml",
        "evaluation_interval: 1m",
        "tests:",
    ]
    for alert in alerts:
        lines += _test(alert, f"{alert.name} fires", alert.fires, runbook, fires=True)
        for case in alert.quiet:
            lines += _test(alert, f"{alert.name} does not fire", case, runbook, fires=False)
    return _WRITTEN + "\n".join(lines) + "\n"


def _test(alert: Alert, name: str, case: Case, runbook: str, *, fires: bool) -> Iterator[str]:
    yield f"  - name: {name}"
    yield "    interval: 1m"
    yield "    input_series:"
    for series, values in case.series.items():
        yield f"      - series: {json.dumps(series)}"
        yield f"        values: {json.dumps(values)}"
    yield "    alert_rule_test:"
    yield f"      - eval_time: {case.at}"
    yield f"        alertname: {alert.name}"
    if not fires:
        yield "        exp_alerts: []"
        return
    yield "        exp_alerts:"
    yield "          - exp_labels:"
    labels = {"severity": alert.severity, "component": "renewer", **case.carried}
    for label, value in sorted(labels.items()):
        yield f"              {label}: {json.dumps(value)}"
    yield "            exp_annotations:"
    yield from _annotations(alert, runbook, "              ", case)


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or look whether they are up to date."""
    parser = argparse.ArgumentParser(description="Write renewer's rules and dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is not up to date")
    parser.add_argument("--out", type=Path, default=HERE, help="where to; beside this file, if not given")
    parser.add_argument("--job", default=JOB, help="the value of Prometheus's job label")
    parser.add_argument("--runbook", default=RUNBOOK, help="the address of the runbook, to which #alert is added")
    options = parser.parse_args(arguments)
    stale = []
    for name, text in files(options.runbook).items():
        # The tests say it in escaped quotes.
        for quote in ('"', '\\"'):
            text = text.replace(f"job={quote}{JOB}{quote}", f"job={quote}{options.job}{quote}")
        path = options.out / name
        if options.check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"not up to date, run deploy/monitoring/build.py: {', '.join(stale)}\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
