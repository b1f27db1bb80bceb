"""The shape of the settings, read from their models: which keys there are, and which hold secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel, SecretStr

from renewer.config.model import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

    from renewer.config.keylines import KeyPath


def section_at(path: KeyPath) -> type[BaseModel] | None:
    """The model of the table at `path`, None where there is no table of fixed keys."""
    model: type[BaseModel] = Settings
    rest = path
    while rest:
        field = model.model_fields.get(str(rest[0]))
        member, named = _member(field.annotation) if field is not None else (None, False)
        taken = 2 if named else 1
        if member is None or len(rest) < taken:
            return None
        model, rest = member, rest[taken:]
    return model


def required_keys(path: KeyPath) -> list[str]:
    """The keys that a table at `path` cannot be without."""
    section = section_at(path)
    return [key for key, field in section.model_fields.items() if field.is_required()] if section is not None else []


def field_at(path: KeyPath) -> FieldInfo | None:
    """The field that `path` leads to, None where it leads to none."""
    section = section_at(path[:-1]) if path else None
    return section.model_fields.get(str(path[-1])) if section is not None else None


def is_secret(path: KeyPath) -> bool:
    """Whether the value at `path` must not be shown."""
    field = field_at(path)
    return field is not None and SecretStr in get_args(field.annotation)


def is_harmless(path: KeyPath) -> bool:
    """Whether `path` leads to a single value that may be shown."""
    field = field_at(path)
    return field is not None and not is_secret(path) and _member(field.annotation)[0] is None


def is_named_group(path: KeyPath) -> bool:
    """Whether `path` leads to a table of sections with names of the user's own, as ``[servicebus.NAME]`` is."""
    field = field_at(path)
    return field is not None and get_origin(field.annotation) is dict and _member(field.annotation)[0] is not None


def is_array(path: KeyPath) -> bool:
    """Whether `path` leads to an array of tables, as ``[[session]]`` is."""
    field = field_at(path)
    return field is not None and get_origin(field.annotation) is tuple and _member(field.annotation)[0] is not None


def all_keys() -> Iterator[tuple[str, str]]:
    """Every section as people write it (``[servicebus.NAME]``), with each key in it; tables in sections follow."""
    for name, field in Settings.model_fields.items():
        member, named = _member(field.annotation)
        if member is None:
            continue
        section = f"[{name}]" if not named else f"[{name}.NAME]" if is_named_group((name,)) else f"[[{name}]]"
        for key in member.model_fields:
            yield section, key
        for key, inner in member.model_fields.items():
            table, numbered = _member(inner.annotation)
            inside = f"{section.strip('[]')}.{key}"
            for inner_key in table.model_fields if table is not None else ():
                yield f"[[{inside}]]" if numbered else f"[{inside}]", inner_key


def _member(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section that an annotation leads to, and whether a name or a number leads there."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return argument, True
    return None, False
