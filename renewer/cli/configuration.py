"""`renewer config`: what is wrong with a configuration, and what is in effect with it. Secrets are not shown."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import BaseModel, SecretStr

from renewer.cli.exitcodes import ExitCode
from renewer.cli.output import has_colours, painted, print_json, printable
from renewer.cli.overrides import parse_overrides
from renewer.cli.words import plural
from renewer.config import TcpListen, load
from renewer.config.layers import format_path
from renewer.config.load import load_with_origins
from renewer.config.problems import HIDDEN
from renewer.config.quantities import format_duration
from renewer.config.ratelimits import LimitSettings
from renewer.errors import ConfigError

if TYPE_CHECKING:
    from renewer.config.keylines import KeyPath
    from renewer.config.layers import Layers

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_DEFAULT = "default"


def check_config(file: Path, overrides: list[str], *, as_json: bool) -> None:
    """Load `file` and say what it holds. Raises `ConfigError` with every mistake; programs are answered with them."""
    try:
        settings = load(file, environ=os.environ, overrides=parse_overrides(overrides))
    except ConfigError as error:
        if as_json:
            print_json({"file": str(file), "mistakes": error.problems})
            raise typer.Exit(ExitCode.CONFIG) from None
        raise
    counts = {
        "sessions": len(settings.session),
        "namespaces": len(settings.servicebus),
        "accounts": len(list(settings.accounts())),
        "gateways": len(settings.gateway),
    }
    if as_json:
        print_json({"file": str(file), "mistakes": [], **counts})
        return
    typer.echo(
        f"{file}: no mistakes; {plural(counts['sessions'], 'session')} on "
        f"{plural(counts['namespaces'], 'Service Bus namespace')}, {plural(len(settings.fabric), 'Fabric account')}, "
        f"{plural(len(settings.azure), 'Azure account')}, {plural(len(settings.gateway), 'gateway')}"
    )


def show_config(path: Path | None, overrides: list[str], *, as_json: bool) -> None:
    """Print the settings. Raises `ConfigError` or `UsageError`."""
    settings, layers = load_with_origins(path, environ=os.environ, overrides=parse_overrides(overrides))
    shown = [(section, list(_leaves(section, model))) for section, model in _sections(settings)]
    if as_json:
        document: dict[str, Any] = {}
        origins: dict[str, str] = {}
        for _, leaves in shown:
            for leaf, value in leaves:
                _put(document, leaf, value)
                origins[format_path(leaf)] = _origin(layers, leaf)
        print_json({"settings": document, "origins": origins})
        return
    colours = has_colours(sys.stdout)
    for number, (section, leaves) in enumerate(shown):
        sys.stdout.write(("\n" if number else "") + painted(_head(section), "bold", colours) + "\n")
        lines = [(f"{_key(str(leaf[-1]))} = {_toml(value)}", _origin(layers, leaf)) for leaf, value in leaves]
        width = min(48, max(len(text) for text, _ in lines))
        for text, origin in lines:
            comment = painted(f"  # {printable(origin)}", "dim", colours)
            sys.stdout.write(f"{text.ljust(width)}{comment}\n")


def _sections(settings: BaseModel) -> Iterator[tuple[KeyPath, BaseModel]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield (name,), value
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield (name, key), item
        elif isinstance(value, tuple):
            for number, item in enumerate(value):
                yield (name, number), item


def _leaves(section: KeyPath, model: BaseModel) -> Iterator[tuple[KeyPath, object]]:
    """The settings of one section that have a value, as one would write them."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if section == ("metrics",) and name == "listen":
            yield (*section, name), value.authority if isinstance(value, TcpListen) else "off"
        elif section[0] == "gateway" and isinstance(value, TcpListen):
            yield (*section, name), value.authority
        elif value is not None:
            yield (*section, name), _plain(name, value)


def _plain(name: str, value: object) -> object:
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, LimitSettings):
        return value.shown()
    if isinstance(value, BaseModel):
        given = {key: getattr(value, key) for key in type(value).model_fields}
        return {key: _plain(key, item) for key, item in given.items() if item is not None}
    if isinstance(value, bool | int | float):
        return f"{value:04o}" if name.endswith("_mode") else value
    if isinstance(value, Mapping):
        return {str(key): _plain(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    return str(value)


def _origin(layers: Layers, path: KeyPath) -> str:
    """Who said it: ``config.toml:12``, ``environment``, ``flag``, or nobody."""
    if layers.get(path) is None:
        return _DEFAULT
    where, key = layers.origin(path)
    return f"{where} {key}" if where == "environment" else where


def _put(document: dict[str, Any], path: KeyPath, value: object) -> None:
    node: Any = document
    for step, following in pairwise(path):
        if isinstance(step, int):
            while len(node) <= step:
                node.append({})
            node = node[step]
        else:
            node = node.setdefault(step, [] if isinstance(following, int) else {})
    node[path[-1]] = value


def _head(section: KeyPath) -> str:
    if isinstance(section[-1], int):
        return f"[[{section[0]}]]"
    return f"[{'.'.join(_key(str(step)) for step in section)}]"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(item)}" for key, item in value.items()) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False)
