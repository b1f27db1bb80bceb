"""Settings from several sources laid over one another, remembering for each value who said it and where."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.config.keylines import KeyPath

_KEY_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[([0-9]{1,6})\]")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value stands (``config.toml:12``, ``environment``, ``flag``), and what it is called there.

    `key` is None where it is called by its dotted path.
    """

    where: str
    key: str | None = None


@dataclass(slots=True)
class Layers:
    """The merged tree of raw values, and the origins of what is in it. What is laid on later wins."""

    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)

    def put(self, path: KeyPath, value: object, origin: Origin) -> str | None:
        """Lay one value over what is there, making the tables around it. Returns what is wrong, if it has no place."""
        node: Any = self.data
        for length, step in enumerate(path[:-1], start=1):
            # Tables are made as they are needed; items of arrays must be there.
            if isinstance(node, dict) and step not in node and isinstance(path[length], str):
                node[step] = {}
                self.origins[path[:length]] = Origin(origin.where)
            node = step_into(node, step)
        last: Any = path[-1]
        fits = isinstance(node, list) and last < len(node) if isinstance(last, int) else isinstance(node, dict)
        if not fits:
            return f"there is no {format_path(path)} to change"
        if value == {} and isinstance(step_into(node, last), dict):
            return None
        node[last] = value
        for known in [known for known in self.origins if known[: len(path)] == path]:
            del self.origins[known]
        self.origins[path] = origin
        return None

    def get(self, path: KeyPath) -> object:
        """The raw value at `path`, None where there is none."""
        node: Any = self.data
        for step in path:
            node = step_into(node, step)
        return node

    def origin(self, path: KeyPath) -> tuple[str, str]:
        """Where the value at `path`, or else the nearest thing around it, was said; and the key to name it by."""
        for length in range(len(path), -1, -1):
            origin = self.origins.get(path[:length])
            if origin is not None:
                rest = path[length:] if origin.key else path
                return origin.where, (origin.key or "") + format_path(rest, leading_dot=bool(origin.key))
        return "settings", format_path(path)


def step_into(node: Any, step: str | int) -> Any:
    """What is one step further down in raw values, None where there is nothing."""
    if isinstance(node, dict):
        return node.get(step)
    if isinstance(node, list) and isinstance(step, int) and step < len(node):
        return node[step]
    return None


def format_path(path: KeyPath, *, leading_dot: bool = False) -> str:
    """Write a path as people do: ``session[1].entity``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text if leading_dot else text.removeprefix(".")


def parse_path(text: str) -> KeyPath | None:
    """Read what `format_path` writes; None where it is no path."""
    steps: list[str | int] = []
    pos = 0
    while pos < len(text):
        match = _KEY_STEP.match(text, pos)
        if match is None or (not steps and text[pos] in ".["):
            return None
        steps.append(match[1] if match[2] is None else int(match[2]))
        pos = match.end()
    return tuple(steps) or None


def flatten(nested: Mapping[str, Any], path: KeyPath = ()) -> list[tuple[KeyPath, object]]:
    """The leaves of nested tables with the ways to them; an empty table is a leaf."""
    leaves: list[tuple[KeyPath, object]] = []
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            leaves.extend(flatten(value, (*path, key)))
        else:
            leaves.append(((*path, key), value))
    return leaves
