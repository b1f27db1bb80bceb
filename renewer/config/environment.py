"""Settings from environment variables: ``RENEWER_SECTION__KEY``, ``RENEWER_SERVICEBUS__MAIN__CONNECTION_STRING``.

Ours is every variable that names one of our sections, with ``__`` behind it or alone (then JSON), and one that comes
so near to it that it must be a slip. Others that begin with ``RENEWER_`` are somebody else's: a key for `key_env`,
a variable of an orchestrator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from renewer.config.layers import Layers, Origin, flatten
from renewer.config.model import Settings
from renewer.config.problems import HIDDEN, escaped
from renewer.config.shape import is_array, is_named_group
from renewer.config.suggest import closest
from renewer.errors import ConfigProblem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.config.keylines import KeyPath

PREFIX: Final = "RENEWER_"
_DELIMITER: Final = "__"
_WHERE: Final = "environment"


def lay_environment(layers: Layers, environ: Mapping[str, str]) -> list[ConfigProblem]:
    """Lay over `layers` what `environ` says, variable by variable; returns the variables that say nothing we know."""
    problems: list[ConfigProblem] = []
    sections = Settings.model_fields
    for variable in sorted(environ):
        if not variable.upper().startswith(PREFIX):
            continue
        section, delimiter, rest = variable[len(PREFIX) :].lower().partition(_DELIMITER)
        if section == "api" and not delimiter and not environ[variable].lstrip().startswith("{"):
            continue  # RENEWER_API=unix:PATH tells workers and commands where the daemon is
        if section not in sections:
            near = closest(section, sections) if delimiter else None
            if near is not None:
                remedy = f"no such setting; did you mean {PREFIX}{near.upper()}{_DELIMITER}{rest.upper()}?"
                problems.append(ConfigProblem(_WHERE, escaped(variable), None, escaped(remedy)))
            continue
        # Only here: pydantic-settings takes 30 ms to load.
        from renewer.config.variable import read_variable

        try:
            leaves = flatten(read_variable(variable, environ[variable], prefix=PREFIX, delimiter=_DELIMITER))
        except (ValueError, RecursionError):
            remedy = f"must be JSON; or set single keys, as in {PREFIX}{section.upper()}{_DELIMITER}KEY"
            problems.append(ConfigProblem(_WHERE, escaped(variable), HIDDEN, remedy))
            continue
        for path, value in leaves:
            origin = Origin(_WHERE, variable if path == _path_of(section, rest) else None)
            wrong = layers.put(_as_written(path, layers), value, origin)
            if wrong is not None:
                problems.append(ConfigProblem(_WHERE, escaped(variable), None, escaped(wrong)))
    return problems


def _path_of(section: str, rest: str) -> KeyPath:
    return (section, *rest.split(_DELIMITER)) if rest else (section,)


def _as_written(path: KeyPath, layers: Layers) -> KeyPath:
    """The path as the file below has it: names keep their case and dashes there, items of an array are numbered."""
    group = path[0]
    if len(path) < 2:
        return path
    name = str(path[1])
    if not is_named_group((group,)):
        return _numbered(path)
    if isinstance(below := layers.data.get(str(group)), dict):
        name = next((known for known in below if known.lower().replace("-", "_") == name), name)
    return (group, name, *path[2:])


def _numbered(path: KeyPath) -> KeyPath:
    """The path with numbers in it where it leads into arrays."""
    steps: KeyPath = ()
    for step in path:
        into_array = isinstance(step, str) and step.isdecimal() and is_array(steps)
        steps = (*steps, int(step) if into_array else step)
    return steps
