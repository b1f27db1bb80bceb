"""The records that the mixin is made of, and how they become text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

JOB = "renewer"
"""The value of Prometheus's `job` label; `build.py --job` writes another one."""

INSTANCE = "worker-1:9464"
"""The daemon that tests look at."""

RUNBOOK = "docs/runbook.md"
"""Where the runbook is; `build.py --runbook` writes another place."""


@dataclass(frozen=True, slots=True)
class Case:
    """What Prometheus is shown in a test of an alert: series, in promtool's notation, a minute apart.

    `labels` are what the alert then carries beside job and instance (an empty one it has not), `value` what its text
    shows for `$value`.
    """

    series: Mapping[str, str]
    at: str
    labels: Mapping[str, str] = field(default_factory=dict)
    value: str = ""

    @property
    def carried(self) -> dict[str, str]:
        """The labels that the alert then has, but for its own."""
        labels = {"job": JOB, "instance": INSTANCE, **self.labels}
        return {name: value for name, value in labels.items() if value}


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert, with one case that fires it and at least one that does not."""

    name: str
    expr: str
    severity: str
    summary: str
    description: str
    fires: Case
    quiet: Sequence[Case]
    lasts: str = "0m"

    @property
    def anchor(self) -> str:
        """Where its entry in the runbook begins."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Record:
    """A recording rule; its name is `level:metric:operation`."""

    name: str
    expr: str


def rendered(text: str, case: Case) -> str:
    """The text of an alert as Prometheus renders it in this case."""
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: case.carried[found[1]], text)
    return re.sub(r"\{\{ \$value[^}]*\}\}", case.value, text)


def series(metric: str, **labels: str) -> str:
    """One series of a daemon, as tests name it."""
    pairs = {"job": JOB, "instance": INSTANCE, **labels}
    return metric + "{" + ", ".join(f'{name}="{value}"' for name, value in pairs.items()) + "}"
