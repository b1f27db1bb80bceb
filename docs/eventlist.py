"""Writes docs/events.md: every line that renewer logs, and every event of the stream, as the code has them.

`python -m docs.eventlist` prints the document. Calls of a logger are read from the source; what the log and the stream
make of news of leases and operations is seen by telling them each piece of news that the core tells. What a phrase, an
event or a word means stands in `docs/eventmeanings.py`, and one without a meaning is an error.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import structlog
from structlog.testing import LogCapture

from docs import eventmeanings as meanings
from renewer.api.control import PASSING_EVENTS
from renewer.core.effects import LeaseNews, OperationNews, TellLease, TellOperation
from renewer.core.leases import Lease
from renewer.core.model import LeaseId, LeaseSpec, OperationId, OperationSpec
from renewer.core.operations import Operation
from renewer.core.states import LossReason, MessageFate, OperationState
from renewer.daemon.eventdocs import lease_data, lease_type, operation_data, operation_type
from renewer.errors import TransientKind
from renewer.observe import LogHook

PACKAGE = Path(__file__).parents[1] / "renewer"
DOCUMENT = Path(__file__).with_name("events.md")

_METHODS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
_LEVELS = ("debug", "info", "warning", "error")
_SILENT = ("client",)  # logs for whoever imports it, through the standard library


@dataclass(slots=True)
class Told:
    """One phrase or one type of event: its levels, and the fields that it always has and sometimes has."""

    levels: set[str] = field(default_factory=set)
    always: set[str] | None = None
    ever: set[str] = field(default_factory=set)

    def add(self, level: str, fields: Iterable[str]) -> None:
        """It was told like this."""
        some = set(fields)
        self.levels.add(level)
        self.always = some if self.always is None else self.always & some
        self.ever |= some

    @property
    def fields(self) -> str:
        """The fields for the table, those that are not always there in brackets."""
        sure = sorted(self.always or ())
        words = [f"`{name}`" for name in sure] + [f"[`{name}`]" for name in sorted(self.ever - set(sure))]
        return ", ".join(words) or "none"

    @property
    def level(self) -> str:
        """The levels for the table, the mildest first."""
        return " or ".join(name for name in _LEVELS if name in self.levels)


Table = dict[str, Told]


class SourceError(Exception):
    """A call that this cannot read, or something that has no meaning yet."""


def document() -> str:
    """The whole of docs/events.md."""
    parts = {**source_lines(), "renewer": news_lines()}
    unknown = {name for table in parts.values() for name in table} - meanings.PHRASES.keys()
    if unknown:
        raise SourceError(f"docs/eventmeanings.py says nothing of the phrases {sorted(unknown)}")
    idle = meanings.PHRASES.keys() - {name for table in parts.values() for name in table}
    if idle:
        raise SourceError(f"docs/eventmeanings.py tells of phrases that nothing logs: {sorted(idle)}")
    sections = [meanings.HEAD]
    for logger, title in meanings.PARTS.items():
        table = parts.pop(logger, None)
        if table:
            sections.append(f"### {title}\n\n{_log_table(table)}")
    if parts:
        raise SourceError(f"docs/eventmeanings.py has no title for the loggers {sorted(parts)}")
    sections.append(meanings.STREAM_HEAD)
    sections.append(_event_table(stream_events()))
    sections.append(meanings.FIELDS_HEAD + _pairs("field", meanings.FIELDS))
    reasons = [reason.value for reason in LossReason]
    sections.append(meanings.REASONS_HEAD + _pairs("reason", _meant(meanings.REASONS, reasons, "reasons")))
    kinds = [*get_args(TransientKind), "overdue"]
    sections.append(meanings.FAILURES_HEAD + _pairs("failure", _meant(meanings.FAILURES, kinds, "failures")))
    return "\n\n".join(section.strip() for section in sections) + "\n"


# --- what the source says ---------------------------------------------------------------------------------


@cache
def source_lines() -> dict[str, Table]:
    """Every phrase that a module's logger is called with, by the logger's name."""
    found: dict[str, Table] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in _SILENT:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        loggers = dict(_loggers(tree))
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            owner = call.func.value
            if not isinstance(owner, ast.Name) or owner.id not in loggers:
                continue
            where = f"{path}:{call.lineno}"
            phrase, level, fields = read_call(call, tree, where)
            found.setdefault(loggers[owner.id], {}).setdefault(phrase, Told()).add(level, fields)
    return found


def read_call(call: ast.Call, tree: ast.Module, where: str) -> tuple[str, str, set[str]]:
    """Phrase, level and fields of one call of a logger."""
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if method not in _METHODS:
        raise SourceError(f"{where}: a logger has no level {method!r} here")
    if len(call.args) != 1 or not isinstance(call.args[0], ast.Constant) or not isinstance(call.args[0].value, str):
        raise SourceError(f"{where}: the phrase must be a constant")
    fields: set[str] = {"exception"} if method == "exception" else set()
    for keyword in call.keywords:
        if keyword.arg is None:
            fields |= _spread(keyword.value, tree, where)
        else:
            fields.add("exception" if keyword.arg == "exc_info" else keyword.arg)
    return call.args[0].value, _METHODS[method], fields


def _loggers(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(
                    func=ast.Attribute(value=ast.Name(id="structlog"), attr="get_logger"),
                    args=[ast.Constant(value=str(logger))],
                ),
            ):
                yield name, logger
            case _:
                pass


def _spread(value: ast.expr, tree: ast.Module, where: str) -> set[str]:
    """The keys of a dictionary that a function of the same module returns as it stands: ``**_fields(it)``."""
    name = None
    if isinstance(value, ast.Call):
        function = value.func
        name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", None)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            returned = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)]
            if len(returned) == 1 and isinstance(returned[0], ast.Dict):
                keys = [key.value for key in returned[0].keys if isinstance(key, ast.Constant)]
                if len(keys) == len(returned[0].keys):
                    return set(map(str, keys))
    raise SourceError(f"{where}: cannot tell the fields of {ast.unparse(value)}")


# --- what news become ---------------------------------------------------------------------------------------


def news_lines() -> Table:
    """What the log says of every piece of news."""
    capture = LogCapture()
    log: Any = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.make_filtering_bound_logger(0))
    hook = LogHook(log)
    for lease in _lease_news():
        hook.lease(lease)
    for operation in _operation_news():
        hook.operation(operation)
    table: Table = {}
    for entry in capture.entries:
        fields = entry.keys() - {"event", "log_level"}
        table.setdefault(entry["event"], Told()).add(entry["log_level"], fields)
    return table


def stream_events() -> Table:
    """What the event stream says of every piece of news."""
    table: Table = {}
    for lease in _lease_news():
        for fate in (None, MessageFate.COMPLETED):
            known = Lease(lease.spec, 0.0, epoch=lease.epoch, fate=fate)
            table.setdefault(lease_type(lease), Told()).add("", lease_data(lease, known))
    for operation in _operation_news():
        followed = Operation(operation.spec, 0.0)
        table.setdefault(operation_type(operation), Told()).add("", operation_data(operation, followed))
    table["stream.gap"] = Told()
    table["stream.gap"].add("", ["reason"])
    return table


def _lease_news() -> Iterator[TellLease]:
    values: dict[str, Any] = {
        "reason": LossReason.EXPIRED, "failure": "busy", "detail": "d", "margin_s": 1.0, "lock_s": 9.0, "final": True,
    }  # fmt: skip
    spec = LeaseSpec(LeaseId("l"), "servicebus.main", "orders")
    for news, keywords in _tellings(LeaseNews):
        known = {name: values[name] for name in keywords if name in values}
        for failures in (1, 2, 3, 4) if "failure" in keywords else (0,):
            yield TellLease(news, spec, 1, 0.0, session_id="s", failures=failures, **known)


def _operation_news() -> Iterator[TellOperation]:
    values: dict[str, Any] = {"failure": "busy", "detail": "d", "retry_after_s": 1.0}
    spec = OperationSpec(OperationId("o"), "fabric.main", {})
    for news, keywords in _tellings(OperationNews):
        known = {name: values[name] for name in keywords if name in values}
        changed = news is OperationNews.STATE_CHANGED
        for state in OperationState if changed else (OperationState.RUNNING,):
            if not changed or state is not OperationState.ACCEPTED:
                yield TellOperation(news, spec, state, 0.0, **known)
        if "retry_after_s" in known:
            yield TellOperation(news, spec, OperationState.RUNNING, 0.0)


def _tellings(news: type[LeaseNews] | type[OperationNews]) -> Iterator[tuple[Any, set[str]]]:
    """Each piece of news with what is told beside it, wherever the core tells it."""
    trees = (ast.parse(module.read_text(encoding="utf-8")) for module in sorted((PACKAGE / "core").glob("*.py")))
    seen = set()
    for call in chain.from_iterable(map(ast.walk, trees)):
        match call:
            case ast.Call(func=ast.Attribute(attr="_tell"), args=[what, *_], keywords=keywords):
                names = {str(keyword.arg) for keyword in keywords}
                for part in ast.walk(what):
                    match part:
                        case ast.Attribute(value=ast.Name(id=news.__name__), attr=name):
                            seen.add(name)
                            yield news[name], names
                        case _:
                            pass
            case _:
                pass
    for one in news:
        if one.name not in seen:
            yield one, set()


# --- tables -----------------------------------------------------------------------------------------------


def _log_table(table: Table) -> str:
    rows = [(f"`{name}`", told.level, told.fields, meanings.PHRASES[name]) for name, told in sorted(table.items())]
    return _table(("phrase", "level", "fields", "what it means"), rows)


def _event_table(table: Table) -> str:
    _meant(meanings.EVENTS, table, "events")
    everywhere = set.intersection(*(set(told.always or ()) for name, told in table.items() if name != "stream.gap"))
    rows = []
    for name, meaning in meanings.EVENTS.items():
        told = table[name]
        told.ever -= everywhere
        told.always = (told.always or set()) - everywhere
        kept = "no" if name in PASSING_EVENTS or name == "stream.gap" else "yes"
        rows.append((f"`{name}`", kept, told.fields, meaning))
    _meant(meanings.FIELDS, everywhere.union(*(told.ever for told in table.values())), "fields")
    return _table(("type", "replayed", "data", "what it means"), rows)


def _pairs(name: str, known: Mapping[str, str]) -> str:
    return "\n\n" + _table((name, "what it means"), [(f"`{key}`", text) for key, text in known.items()])


def _meant(known: Mapping[str, str], wanted: Iterable[str], what: str) -> Mapping[str, str]:
    names = list(wanted)
    differing = sorted(known.keys() ^ set(names))
    if differing:
        raise SourceError(f"docs/eventmeanings.py and the code differ in the {what} {differing}")
    return {name: known[name] for name in names}


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    try:
        sys.stdout.write(document())
    except SourceError as error:
        sys.exit(str(error))
