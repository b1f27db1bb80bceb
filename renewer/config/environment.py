"""Settings from environment variables: ``RENEWER_SECTION__KEY``, ``RENEWER_SERVICEBUS__MAIN__CONNECTION_STRING``.

Ours is every variable that names one of our sections, with ``__`` behind it or alone (then JSON). With ``__`` and
another name it is a slip, and a mistake; so is a setting's name with ``_`` where ``__`` belongs. Others that begin with
``RENEWER_`` are somebody else's: a worker's RENEWER_API_KEY, a key for `key_env`, what Kubernetes and Docker tell of a
service named renewer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from renewer.config.layers import Layers, Origin, flatten
from renewer.config.model import Settings
from renewer.config.problems import HIDDEN, escaped
from renewer.config.shape import all_keys, is_array, is_named_group, section_at
from renewer.config.suggest import closest
from renewer.errors import ConfigProblem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from renewer.config.keylines import KeyPath

PREFIX: Final = "RENEWER_"
_DELIMITER: Final = "__"
_WHERE: Final = "environment"

_DEPTH: Final = 6
"""As deep as settings go. Mistakes may go deeper than the stack could follow."""

_OF_SERVICES: Final = re.compile(
    r"(?:.*_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)(?:_.*)?|ENV_[^_].*)", re.DOTALL
)
"""What Kubernetes and Docker links tell of a service, behind its name and ``_``; ENV: a linked container's own."""
_PLACE_OF_SERVICES: Final = re.compile(r"(?:tcp|udp|sctp)://")
"""And how the value of NAME_PORT begins."""


def lay_environment(layers: Layers, environ: Mapping[str, str]) -> list[ConfigProblem]:
    """Lay over `layers` what `environ` says, variable by variable; returns those that cannot be read."""
    problems: list[ConfigProblem] = []
    sections = Settings.model_fields
    for variable in sorted(environ):
        if not variable.upper().startswith(PREFIX):
            continue
        section, delimiter, rest = variable[len(PREFIX) :].lower().partition(_DELIMITER)
        if section == "api" and not delimiter and not environ[variable].lstrip().startswith("{"):
            continue  # RENEWER_API=unix:PATH tells workers and commands where the daemon is
        if section not in sections:
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


def stray_variables(layers: Layers, environ: Mapping[str, str]) -> list[ConfigProblem]:
    """The variables that are written like settings and lead to no section; not those that a setting names."""
    named = set(_named(layers.data))
    problems: list[ConfigProblem] = []
    for variable in sorted(environ):
        name = variable[len(PREFIX) :]
        path = name.lower().lstrip("_").split(_DELIMITER)
        if not variable.upper().startswith(PREFIX) or name.lower().partition(_DELIMITER)[0] in Settings.model_fields:
            continue
        if not (name.startswith("_") or len(path) > 1 or _run_together(name.lower())):
            continue
        if variable not in named and not _is_of_a_service(name, environ[variable]):
            remedy = escaped(f"no such setting; {_nearest(path)}")
            problems.append(ConfigProblem(_WHERE, escaped(variable), None, remedy))
    return problems


def _run_together(name: str) -> bool:
    """Whether it is a setting with ``_`` for ``__``. Not those for keys: whose they are, nobody knows."""
    singles = ((place, key) for place, key in all_keys() if not place.startswith("[[") and not key.startswith("key"))
    return any(f"{place.strip('[]')}_{key}" == name for place, key in singles)


def _named(node: object, depth: int = _DEPTH) -> Iterator[str]:
    """The variables that settings such as `key_env` name."""
    if depth and isinstance(node, list):
        for item in node:
            yield from _named(item, depth - 1)
    elif depth and isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, str) and str(key).endswith("_env"):
                yield value
            else:
                yield from _named(value, depth - 1)


def _is_of_a_service(name: str, value: str) -> bool:
    is_place = name.endswith("PORT") and _PLACE_OF_SERVICES.match(value) is not None
    return is_place or _OF_SERVICES.fullmatch(name) is not None


def _nearest(path: list[str]) -> str:
    """What was meant, or else what there is."""
    sections = Settings.model_fields
    section, key = closest(path[0], sections), path[-1]
    if section is not None and len(path) > 1:
        steps = [step for step in path[1:-1] if step]
        if not key:
            return f"its key is missing; it is written as {_variable(section, *(steps or _place_in(section)), 'key')}"
        table = section_at((section, *steps))
        known = table.model_fields if table is not None else ()
        return f"did you mean {_variable(section, *steps, closest(key, known) or key)}?"
    names = {key, "_".join(path)}
    meant = [
        _variable(*place.strip("[]").split("."), name)
        for place, name in all_keys()
        if not place.startswith("[[") and (name in names or f"{place.strip('[]')}_{name}" == key)
    ]
    if meant:
        return f"did you mean {' or '.join(meant)}?"
    return f"known sections are {', '.join(sections)}, as in {_variable(next(iter(sections)), 'key')}"


def _place_in(section: str) -> tuple[str, ...]:
    """What stands between a section and a key of it."""
    if is_named_group((section,)):
        return ("name",)
    return ("0",) if is_array((section,)) else ()


def _variable(*steps: str) -> str:
    return PREFIX + _DELIMITER.join(steps).upper()


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
