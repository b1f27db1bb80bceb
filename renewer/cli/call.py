"""What every command that talks to a daemon shares: where it is, the key, and how to answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Literal, ParamSpec, get_type_hints

import typer

from renewer.cli.exitcodes import CommandError, ExitCode

if TYPE_CHECKING:
    from renewer.cli.connect import Endpoint
    from renewer.client import Client

P = ParamSpec("P")


class Format(StrEnum):
    """How a command answers."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a command: the answers to the options that all of them have."""

    api: str | None
    key_file: Path | None
    config: Path | None
    format: Format

    @property
    def as_json(self) -> bool:
        """Whether a program reads the answer."""
        return self.format is Format.JSON

    def endpoint(self) -> Endpoint:
        """Where the daemon is. Raises `CommandError` if none can be found."""
        from renewer.cli.connect import find

        return find(self.api, key_file=self.key_file, config=self.config)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """The daemon's client; what it raises is told as `CommandError`."""
        from renewer.cli.connect import connected

        with connected(self.endpoint()) as client:
            yield client


def add_command(
    app: typer.Typer, name: str | None = None, **settings: Any
) -> Callable[[Callable[Concatenate[Call, P], None]], Callable[Concatenate[Call, P], None]]:
    """Add a function as a command of `app`; its first argument is made from the options that all commands share."""

    def register(function: Callable[Concatenate[Call, P], None]) -> Callable[Concatenate[Call, P], None]:
        hints = get_type_hints(function, include_extras=True)
        _, *own = inspect.signature(function).parameters.values()
        own = [parameter.replace(annotation=hints[parameter.name]) for parameter in own]
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *_SHARED)]

        def command(**given: Any) -> None:
            call = Call(*(given.pop(parameter.name) for parameter in _SHARED))
            function(call, **given)  # type: ignore[call-arg]

        settings.setdefault("help", flowing(function.__doc__))
        command.__name__ = function.__name__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword}
        command.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        app.command(name, **settings)(command)
        return function

    return register


def check_id(any_id: str, kind: Literal["lease", "op"]) -> str:
    """An id that is to be forgotten must be of the right kind: what is forgotten is gone. Raises `CommandError`."""
    if not any_id.startswith(f"{kind}-"):
        what = "lease" if kind == "lease" else "operation"
        raise CommandError(f"{any_id!r} is not the id of a {what}: those begin with {kind}-", ExitCode.NOT_FOUND)
    return any_id


def flowing(text: str | None) -> str:
    """A docstring as help text: paragraphs stay apart, the lines of each become one that terminals may break."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


ApiOption = Annotated[
    str | None,
    typer.Option(
        "--api",
        metavar="ADDRESS",
        help="Where the daemon is: unix:PATH, tcp:HOST:PORT or http://HOST:PORT. Else RENEWER_API says it, or -c, or "
        "the sockets ./var/renewer.sock and /run/renewer/renewer.sock are tried.",
        rich_help_panel="Daemon",
        show_default=False,
    ),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(
        "--api-key-file",
        metavar="FILE",
        help="A file with the bearer key; else RENEWER_API_KEY.",
        rich_help_panel="Daemon",
        show_default=False,
    ),
]
FindOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Find the daemon, and the key, by its own configuration.",
        rich_help_panel="Daemon",
        show_default=False,
    ),
]
FormatOption = Annotated[
    Format, typer.Option("--output", "-o", help="table for people, json for programs.", rich_help_panel="Daemon")
]

_SHARED = (
    inspect.Parameter("api", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ApiOption),
    inspect.Parameter("key_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=KeyFileOption),
    inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=FindOption),
    inspect.Parameter("format", inspect.Parameter.KEYWORD_ONLY, default=Format.TABLE, annotation=FormatOption),
)
