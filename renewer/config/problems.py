"""Mistakes in words: what pydantic or a check found, told as where, key, value and what would be right.

Values are shown only where they cannot be secrets: never for secret settings, and for unknown keys only where they are
no text or where the key that was meant is known and harmless.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, get_args

from renewer.config.layers import format_path
from renewer.config.shape import all_keys, field_at, is_array, is_harmless, is_named_group, is_secret, section_at
from renewer.config.suggest import closest
from renewer.errors import ConfigError, ConfigProblem

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from renewer.config.keylines import KeyPath
    from renewer.config.layers import Layers

HIDDEN: Final = "***"
_MAX_SHOWN: Final = 80
_MAX_KNOWN: Final = 24
_SECRET_LOOKS: Final = re.compile(r"shared ?access|sig=|eyJ|bearer |password|://[^/]*@", re.IGNORECASE)


def describe_problems(error: ConfigError) -> str:
    """Everything that is wrong, for a person at a terminal."""
    count = len(error.problems)
    lines = ["The configuration has a mistake:" if count == 1 else f"The configuration has {count} mistakes:"]
    for problem in error.problems:
        shown = f" = {problem.value}" if problem.value is not None else ""
        lines.append(f"  {problem.where}: {problem.key}{shown}")
        lines.append(f"      {problem.remedy}")
    return "\n".join(lines)


def problem_at(layers: Layers, path: KeyPath, remedy: str, *, value: object = None) -> ConfigProblem:
    """A problem with the value at `path`; `value` is what to show of it where the layers hold none."""
    where, key = layers.origin(path)
    raw = layers.get(path)
    return ConfigProblem(where, escaped(key), show(path, value if raw is None else raw), escaped(remedy))


def from_pydantic(layers: Layers, detail: ErrorDetails) -> ConfigProblem:
    """What pydantic found, in our words."""
    path = value_path(detail)
    if detail["type"] == "missing":
        where, key = layers.origin(path[:-1])
        return ConfigProblem(where, f"{escaped(key)}.{path[-1]}", None, f"is missing: {_form(path)}")
    return problem_at(layers, path, _remedy(path, detail), value=detail["input"])


def value_path(detail: ErrorDetails) -> KeyPath:
    """The way to the value that pydantic found wrong; for the name of a section, to that section."""
    return detail["loc"][:-1] if detail["loc"][-1] == "[key]" else detail["loc"]


def show(path: KeyPath, value: object) -> str | None:
    """The value as one may see it; None for whole tables and arrays."""
    if value is None or isinstance(value, dict | list | tuple):
        return None
    if is_secret(path):
        return HIDDEN
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else _shortened(str(value))
    labels = len(path) == 4 and path[0] == "session" and path[2] == "labels"
    section = section_at(path[:-1])
    meant = closest(str(path[-1]), section.model_fields) if section is not None else None
    if not labels and (meant is None or not is_harmless((*path[:-1], meant))):
        return HIDDEN
    if _SECRET_LOOKS.search(value) or (str(path[-1]).endswith("_env") and not value.isidentifier()):
        return HIDDEN
    return f'"{escaped(_shortened(value))}"'


def escaped(text: str) -> str:
    """Text that cannot move a terminal's cursor or break a line."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _remedy(path: KeyPath, detail: ErrorDetails) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return _unknown(path)
        case "value_error":
            return str(detail.get("ctx", {}).get("error", detail["msg"]))
        case "string_too_short" | "string_too_long":
            return f"must be text of {_lengths(detail)} characters"
        case _:
            return f"must be {_form(path)}"


def _unknown(path: KeyPath) -> str:
    section, key = path[:-1], str(path[-1])
    model = section_at(section)
    known = list(model.model_fields) if model is not None else []
    near = closest(key, known)
    elsewhere = [place for place, name in all_keys() if name == key.lower()]
    inside = [place for place in elsewhere if section and place.strip("[]").startswith(f"{section[0]}.")]
    if inside:
        return f"no such setting here; it belongs in {' or '.join(inside)}"
    if near is not None:
        return f"no such setting; did you mean {near}?"
    if elsewhere:
        return f"no such setting here; it belongs in {' or '.join(elsewhere)}"
    what = f"in [{format_path(section)}]" if section else "at the top"
    return f"no such setting; known {what}: {', '.join(known[:_MAX_KNOWN])}"


def _form(path: KeyPath) -> str:
    """What a value at `path` looks like when it is right."""
    name = path[-1]
    if is_array(path):
        section = ".".join(str(step) for step in path if isinstance(step, str))
        return f"an array of tables: [[{section}]], in double brackets"
    if is_named_group(path):
        return f"tables with names, such as [{name}.main]"
    if len(path) == 2 and is_named_group(path[:1]):
        return f"a table: keys stand under a name of your own, as in [{path[0]}.main]"
    if section_at(path) is not None:
        return f"a table, [{format_path(path)}]"
    if name == "entity":
        return 'the name of a queue ("orders") or a subscription ("topic/Subscriptions/name")'
    if name == "entities":
        return 'a list of entities or patterns, such as ["orders", "events/Subscriptions/*"]'
    if name == "labels":
        return 'a table of texts, such as { team = "billing" }'
    field = field_at(path)
    annotation: Any = field.annotation if field is not None else str
    if annotation is bool or bool in get_args(annotation):
        return "true or false"
    choices = [str(choice) for choice in get_args(annotation) if isinstance(choice, str)]
    if choices:
        return f"one of {', '.join(choices)}" if len(choices) > 1 else f'"{choices[0]}"'
    return "text, in quotes"


def _lengths(detail: ErrorDetails) -> str:
    ctx = detail.get("ctx", {})
    return f"at most {ctx['max_length']}" if "max_length" in ctx else f"at least {ctx.get('min_length')}"


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
