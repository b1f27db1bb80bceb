"""Grafana panels, as plain values: how each kind looks, and how a page is filled from left to right.

Written for Grafana 12 and 13 (schema version 42); older ones read it, too. Every panel has a unit and a description.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

SCHEMA_VERSION: Final = 42

GOOD, WARN, BAD, NEUTRAL = "green", "orange", "red", "text"

DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

_LEAST: Final = {"short": 1, "ops": 0.1}
"""Axes go at least so far up: where nothing happens, nothing should look like much."""

Steps = Sequence[tuple[float | None, str]]


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and what its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `steps` are thresholds: from which value on which colour; the first one begins nowhere."""

    kind: str
    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    steps: Steps = ((None, NEUTRAL),)
    width: int = 8
    height: int = 8
    options: Mapping[str, Any] | None = None
    custom: Mapping[str, Any] | None = None
    mappings: Mapping[str, tuple[str, str]] | None = None
    colours: Mapping[str, str] | None = None
    """What series of a certain name are drawn in."""
    decimals: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and the panels below it."""

    title: str
    panels: Sequence[Panel]


def number(
    title: str, description: str, unit: str, expr: str, *, steps: Steps = ((None, NEUTRAL),), **more: Any
) -> Panel:
    """One number, coloured by its thresholds."""
    options = {
        "colorMode": "background" if len(steps) > 1 else "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "auto",
    }
    size = {"width": 4, "height": 4, **more}
    return Panel("stat", title, description, unit, [Query(expr)], steps, **size, options=options)


def curves(title: str, description: str, unit: str, *queries: Query, stacked: bool = False, **more: Any) -> Panel:
    """Series over time; thresholds are drawn as lines."""
    steps = more.get("steps", ())
    custom: dict[str, Any] = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 25 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "dashed" if len(steps) > 1 else "off"},
        "axisSoftMin": 0,
    }
    if unit in _LEAST:
        custom["axisSoftMax"] = _LEAST[unit]
    options = {
        "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, description, unit, queries, **more, options=options, custom=custom)


def heat(title: str, description: str, unit: str, expr: str, **more: Any) -> Panel:
    """How many observations of a histogram fell where, over time. `unit` is that of what was observed."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "unit": unit},
        "cellValues": {"unit": "short"},
    }
    return Panel("heatmap", title, description, "short", [Query(expr, "{{le}}")], **more, options=options)


def table(title: str, description: str, unit: str, *queries: Query, **more: Any) -> Panel:
    """The last values, one line for each series."""
    options = {"cellHeight": "sm", "showHeader": True}
    return Panel("table", title, description, unit, queries, **more, options=options)


def dashboard(uid: str, title: str, description: str, rows: Iterable[Row], *, one_instance: bool) -> dict[str, Any]:
    """The whole document, as Grafana imports it."""
    return {
        "annotations": {"list": [_ANNOTATIONS, _alerts()]},
        "description": description,
        "editable": True,
        "fiscalYearStartMonth": 0,
        "graphTooltip": 1,
        "links": [_LINKS],
        "panels": list(_placed(rows)),
        "preload": False,
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["renewer"],
        "templating": {"list": _variables(one_instance=one_instance)},
        "time": {"from": "now-3h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "title": title,
        "uid": uid,
        "version": 1,
        "weekStart": "",
    }


_ANNOTATIONS: Final = {
    "builtIn": 1,
    "datasource": {"type": "grafana", "uid": "-- Grafana --"},
    "enable": True,
    "hide": True,
    "iconColor": "rgba(0, 211, 255, 1)",
    "name": "Annotations & Alerts",
    "type": "dashboard",
}

_LINKS: Final = {
    "asDropdown": False,
    "icon": "external link",
    "includeVars": True,
    "keepTime": True,
    "tags": ["renewer"],
    "targetBlank": False,
    "title": "",
    "type": "dashboards",
}


def _alerts() -> dict[str, Any]:
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "expr": 'ALERTS{component="renewer", alertstate="firing", instance=~"$instance"}',
        "iconColor": "red",
        "name": "Alerts",
        "step": "60s",
        "tagKeys": "severity",
        "titleFormat": "{{alertname}}",
        "textFormat": "{{instance}} {{reason}}",
    }


def _variables(*, one_instance: bool) -> list[dict[str, Any]]:
    return [
        {
            "current": {},
            "includeAll": False,
            "label": "Data source",
            "multi": False,
            "name": "datasource",
            "options": [],
            "query": "prometheus",
            "refresh": 1,
            "regex": "",
            "type": "datasource",
        },
        _labels("job", "Job", "label_values(renewer_build_info, job)", several=True),
        _labels(
            "instance",
            "Instance",
            'label_values(renewer_build_info{job=~"$job"}, instance)',
            several=not one_instance,
        ),
    ]


def _labels(name: str, label: str, query: str, *, several: bool) -> dict[str, Any]:
    return {
        "allowCustomValue": True,
        "current": {"selected": True, "text": "All", "value": ["$__all"]} if several else {},
        "datasource": DATASOURCE,
        "definition": query,
        "includeAll": several,
        "label": label,
        "multi": several,
        "name": name,
        "options": [],
        "query": {"qryType": 1, "query": query, "refId": "variable"},
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "type": "query",
    }


def _placed(rows: Iterable[Row]) -> Iterable[dict[str, Any]]:
    number_of, y = 0, 0
    for row in rows:
        number_of += 1
        place = {"h": 1, "w": 24, "x": 0, "y": y}
        yield {"collapsed": False, "gridPos": place, "id": number_of, "panels": [], "title": row.title, "type": "row"}
        x, y, tallest = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > 24:
                x, y, tallest = 0, y + tallest, 0
            number_of += 1
            yield _drawn(panel, number_of, {"h": panel.height, "w": panel.width, "x": x, "y": y})
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest


def _drawn(panel: Panel, number_of: int, place: Mapping[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "color": {"mode": "thresholds" if panel.kind in ("stat", "table") else "palette-classic"},
        "mappings": [
            {"options": {value: {"color": colour, "text": text}}, "type": "value"}
            for value, (text, colour) in (panel.mappings or {}).items()
        ],
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": colour, "value": value} for value, colour in panel.steps],
        },
        "unit": panel.unit,
    }
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.custom is not None:
        defaults["custom"] = dict(panel.custom)
    at_once = panel.kind in ("stat", "table")
    return {
        "datasource": DATASOURCE,
        "description": panel.description,
        "fieldConfig": {
            "defaults": defaults,
            "overrides": [
                {
                    "matcher": {"id": "byName", "options": name},
                    "properties": [{"id": "color", "value": {"fixedColor": colour, "mode": "fixed"}}],
                }
                for name, colour in (panel.colours or {}).items()
            ],
        },
        "gridPos": dict(place),
        "id": number_of,
        "options": dict(panel.options or {}),
        "targets": [
            {
                "datasource": DATASOURCE,
                "editorMode": "code",
                "expr": query.expr,
                "format": {"heatmap": "heatmap", "table": "table"}.get(panel.kind, "time_series"),
                "instant": panel.kind == "table",
                "legendFormat": query.legend or "__auto",
                "range": panel.kind != "table",
                "refId": chr(ord("A") + index),
            }
            for index, query in enumerate(panel.queries)
        ],
        "title": panel.title,
        "type": panel.kind,
    } | ({"transformations": _TIDY} if at_once and panel.kind == "table" else {})


_TIDY: Final = [
    {"id": "merge", "options": {}},
    {
        "id": "organize",
        "options": {
            "excludeByName": {"Time": True, "__name__": True, "job": True},
            "renameByName": {"Value": "leases held"},
        },
    },
]
