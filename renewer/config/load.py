"""Read the settings: defaults, then a TOML file, then the environment, then flags; later ones win.

Everything that is wrong is found in one go: what cannot be used is set aside, and the rest is checked without it, so
that one mistake hides none of the others and causes none that are not there.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from renewer.config.checks import check
from renewer.config.environment import lay_environment, stray_variables
from renewer.config.findings import NAMES
from renewer.config.keylines import key_lines
from renewer.config.layers import Layers, Origin, flatten, parse_path, step_into
from renewer.config.model import Settings
from renewer.config.problems import escaped, from_pydantic, problem_at, value_path
from renewer.config.shape import required_keys
from renewer.errors import ConfigError, ConfigProblem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from renewer.config.keylines import KeyPath

_MAX_FILE_BYTES: Final = 16 * 1024 * 1024
_MAX_PROBLEMS: Final = 200
_MAX_ROUNDS: Final = 8
_COPIED_DEPTH: Final = 6
"""As deep as settings go. Mistakes may go deeper than the stack could follow."""
_PLACE: Final = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_STAND_INS: Final[Mapping[str, Any]] = {"entity": "set-aside", "name": "set-aside", "entities": ["set-aside"]}
"""Take the place of what must be there and cannot be used, so that entries of an array keep their numbers."""


def load(path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, Any]) -> Settings:
    """Settings from the file at `path` (None: no file), from variables, and from flags.

    `overrides` maps dotted keys (``"daemon.log_level"``, ``"session[0].entity"``) or nested tables to values; None
    means not given. Raises `ConfigError` with every mistake found. Files that settings name are read to be checked.
    """
    return load_with_origins(path, environ=environ, overrides=overrides)[0]


def load_with_origins(
    path: Path | None, *, environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> tuple[Settings, Layers]:
    """As `load`, with the raw values and who said them."""
    layers = Layers()
    problems = _lay_file(layers, path) if path is not None else []
    readable = not problems
    problems += lay_environment(layers, environ)
    problems += _lay_overrides(layers, overrides)
    if not readable:
        # What is in the file is not known: to look for more would find what is not wrong.
        raise ConfigError(problems)
    problems += stray_variables(layers, environ)
    settings, broken, found = _validate(layers)
    problems += found
    if settings is not None:
        problems += [
            problem_at(layers, finding.path, finding.remedy, value=finding.value)
            for finding in check(settings, environ)
            if not any(part[: len(bad)] == bad for part in (finding.path, *finding.uses) for bad in broken)
        ]
    if problems or settings is None:
        raise ConfigError(_in_order(problems))
    return settings, layers


def _lay_file(layers: Layers, path: Path) -> list[ConfigProblem]:
    where = escaped(str(path))
    try:
        text = _read(path)
    except OSError as error:
        return [ConfigProblem(where, "file", None, f"cannot be read: {error.strerror or 'no reason given'}")]
    except UnicodeDecodeError as error:
        return [ConfigProblem(where, "file", None, f"must be UTF-8; byte {error.start} is not")]
    except ValueError as error:
        return [ConfigProblem(where, "file", None, str(error))]
    try:
        layers.data = tomllib.loads(text)
    except RecursionError:
        return [ConfigProblem(where, "syntax", None, "is nested too deep")]
    except ValueError as error:
        return [_syntax_problem(where, text, str(error))]
    layers.origins = {key: Origin(f"{where}:{line}") for key, line in key_lines(text).items()}
    layers.origins[()] = Origin(where)
    return []


def _read(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(_MAX_FILE_BYTES + 1)
    if len(raw) > _MAX_FILE_BYTES:
        raise ValueError(f"must be at most {_MAX_FILE_BYTES // 1024**2} MiB")
    # TOML knows both kinds of line ends and no third.
    return raw.decode("utf-8-sig").replace("\r\n", "\n")


def _syntax_problem(where: str, text: str, message: str) -> ConfigProblem:
    match = _PLACE.fullmatch(message)
    if match is None:
        return ConfigProblem(where, "syntax", None, escaped(message))
    if match[2] is None:
        line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
    else:
        line, column = int(match[2]), int(match[3])
    return ConfigProblem(f"{where}:{line}:{column}", "syntax", None, escaped(f"is not TOML: {match[1]}"))


def _lay_overrides(layers: Layers, overrides: Mapping[str, Any]) -> list[ConfigProblem]:
    problems: list[ConfigProblem] = []
    for key, value in overrides.items():
        path = parse_path(key)
        if path is None:
            remedy = 'must be a key such as "daemon.log_level" or "session[0].entity"'
            problems.append(ConfigProblem("flag", escaped(key), None, remedy))
            continue
        for leaf, item in flatten({"": value}):
            wrong = layers.put((*path, *leaf[1:]), item, Origin("flag")) if item is not None else None
            if wrong is not None:
                problems.append(ConfigProblem("flag", escaped(key), None, escaped(wrong)))
    return problems


def _validate(layers: Layers) -> tuple[Settings | None, set[KeyPath], list[ConfigProblem]]:
    """Settings from what is usable, the paths of what was set aside, and why."""
    data = _copied(layers.data)
    broken: set[KeyPath] = set()
    problems: list[ConfigProblem] = []
    for _ in range(_MAX_ROUNDS):
        try:
            return Settings.model_validate(data), broken, problems
        except ValidationError as error:
            details = error.errors(include_url=False)
        for detail in details:
            problems.append(from_pydantic(layers, detail))
            path = value_path(detail)
            broken.add(path)
            if len(path) <= 2:
                broken.add((*path[:1], NAMES))
            _set_aside(data, path, detail["type"])
    return None, broken, problems


def _copied(node: Any, depth: int = _COPIED_DEPTH) -> Any:
    if depth and isinstance(node, dict):
        return {key: _copied(item, depth - 1) for key, item in node.items()}
    if depth and isinstance(node, list):
        return [_copied(item, depth - 1) for item in node]
    return node


def _set_aside(data: dict[str, Any], path: KeyPath, kind: str) -> None:
    """Take the value at `path` out, or put something harmless in its place where something must be."""
    node: Any = data
    for step in path[:-1]:
        node = step_into(node, step)
    last: Any = path[-1]
    if isinstance(node, list):
        node[last] = {key: _STAND_INS[key] for key in required_keys(path)}
    elif not isinstance(node, dict):
        return  # something around it was set aside already
    elif last in required_keys(path[:-1]) and kind != "extra_forbidden":
        node[last] = _STAND_INS[last]
    else:
        node.pop(last, None)


def _in_order(problems: list[ConfigProblem]) -> list[ConfigProblem]:
    """As they stand in the file, then those of the environment and of flags; not endlessly many."""
    ordered = sorted(problems, key=_rank)
    if len(ordered) <= _MAX_PROBLEMS:
        return ordered
    rest = len(ordered) - _MAX_PROBLEMS
    return [*ordered[:_MAX_PROBLEMS], ConfigProblem("settings", "more", str(rest), "further mistakes are not listed")]


def _rank(problem: ConfigProblem) -> tuple[int, int]:
    if problem.where in {"environment", "flag"}:
        return 1 if problem.where == "environment" else 2, 0
    line = problem.where.rpartition(":")[2]
    return 0, int(line) if line.isdecimal() else 0
