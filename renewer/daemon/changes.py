"""What is another in one configuration than in the other, in words that give no secret away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, SecretStr

from renewer.config.quantities import format_duration

if TYPE_CHECKING:
    from renewer.config import Settings

ABSENT: Final = "absent"
PRESENT: Final = "present"
_HIDDEN: Final = "***"


@dataclass(frozen=True, slots=True)
class Change:
    """One setting, as ``section.key``, with its old and its new value as they may be shown."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        """Render for people; of a secret one learns that it is another one."""
        if _HIDDEN in (self.before, self.after) and ABSENT not in (self.before, self.after):
            return f"{self.key} (a secret)"
        return f"{self.key}: {self.before} → {self.after}"


def shown(value: object, key: str = "") -> str:
    """The value of a setting, as it may be shown; `key` is what it is called in its section."""
    match value:
        case None:
            return ABSENT
        case SecretStr():
            return _HIDDEN
        case bool():
            return str(value).lower()
        case int() if key == "socket_mode":
            return f"{value:04o}"
        case timedelta():
            return format_duration(value)
        case str() | Path():
            return f'"{value}"'
        case list() | tuple():
            return f"[{', '.join(shown(item) for item in value)}]"
        case _:
            return str(value)


def compare_gateways(old: Settings, new: Settings) -> Iterator[Change]:
    """What is another in ``[[gateway]]``, by the names of the gateways and not by the order that they stand in."""
    before, after = _gateways(old), _gateways(new)
    for name in dict.fromkeys((*before, *after)):
        was, will = before.get(name), after.get(name)
        if was is None or will is None:
            yield Change(name, ABSENT if was is None else PRESENT, ABSENT if will is None else PRESENT)
        else:
            yield from _compare_leaves(name, was, will)


def _gateways(settings: Settings) -> dict[str, dict[str, object]]:
    """The leaves of each gateway, by its name: ``gateway.main``."""
    return {
        f"gateway.{settings.gateway_name(gateway)}": dict(
            _leaves("", gateway.model_copy(update={"servicebus": settings.servicebus_name(gateway)}))
        )
        for gateway in settings.gateway
    }


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, BaseModel):
        for key in type(value).model_fields:
            yield from _leaves(f"{path}.{key}" if path else key, getattr(value, key))
    elif isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(f"{path}[{number}]", item)
    else:
        yield path, value


def _compare_leaves(name: str, before: dict[str, object], after: dict[str, object]) -> Iterator[Change]:
    for path in dict.fromkeys((*before, *after)):
        old, new = before.get(path), after.get(path)
        if old != new:
            key = path.rpartition(".")[2]
            yield Change(f"{name}.{path}", shown(old, key), shown(new, key))
