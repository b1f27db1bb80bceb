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
    from renewer.cli.endpoint import Endpoint
    from renewer.client import Client

P = ParamSpec("P")

Kind = Literal["lease", "op"]
"""What an id names: a lease or an operation; the word is that of the commands for it, and of the ids."""


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
    format: Format = Format.TABLE

    @property
    def as_json(self) -> bool:
        """Whether a program reads the answer."""
        return self.format is Format.JSON

    def endpoint(self) -> Endpoint:
        """Where the daemon is. Raises `CommandError` if none can be found."""
        from renewer.cli.endpoint import find

        return find(self.api, key_file=self.key_file, config=self.config)

    @contextmanager
    def client(self, kind: Kind | None = None, about: str = "") -> Iterator[Client]:
        """The daemon's client; what it raises is told as `CommandError`, about the lease or operation with this id."""
        from renewer.cli.connect import connected

        with connected(self.endpoint(), kind, about) as client:
            yield client

    def for_each(self, kind: Kind, ids: list[str], done: str, do: Callable[[Client, str], object]) -> None:
        """Do something with each lease or operation; programs are answered with the ids with which it was `done`.

        One that goes wrong is told in a line, and the next one is tried. In the end `typer.Exit` tells of the worst.
        """
        from renewer.cli.connect import told
        from renewer.cli.output import note, print_json
        from renewer.client import RenewerApiError

        well: list[str] = []
        codes: list[ExitCode] = []
        endpoint = self.endpoint()
        with self.client() as client:
            for any_id in dict.fromkeys(ids):
                try:
                    do(client, any_id)
                except (CommandError, RenewerApiError) as error:
                    problem = error if isinstance(error, CommandError) else told(error, endpoint, kind, any_id)
                    if problem.code is ExitCode.UNAVAILABLE or problem.code is ExitCode.NO_PERMISSION:
                        raise problem from error
                    text = str(problem)
                    note(text if text.startswith(any_id) else f"{any_id}: {text}")
                    codes.append(problem.code)
                else:
                    well.append(any_id)
        if self.as_json:
            print_json({done: well})
        if codes:
            raise typer.Exit(next((code for code in codes if code != ExitCode.NOT_FOUND), ExitCode.NOT_FOUND))


def add_command(
    app: typer.Typer, name: str | None = None, *, answers: bool = True, **settings: Any
) -> Callable[[Callable[Concatenate[Call, P], None]], Callable[Concatenate[Call, P], None]]:
    """Add a function as a command of `app`; its first argument is made from the options that all commands share.

    Those that do not answer, because what they write is somebody else's, have no --output.
    """
    shared = _SHARED if answers else _SHARED[:-1]

    def register(function: Callable[Concatenate[Call, P], None]) -> Callable[Concatenate[Call, P], None]:
        hints = get_type_hints(function, include_extras=True)
        _, *own = inspect.signature(function).parameters.values()
        own = [parameter.replace(annotation=hints[parameter.name]) for parameter in own]
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)]

        def command(**given: Any) -> None:
            call = Call(**{parameter.name: given.pop(parameter.name) for parameter in shared})
            function(call, **given)  # type: ignore[call-arg]

        settings.setdefault("help", flowing(function.__doc__))
        command.__name__ = function.__name__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword}
        command.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
        app.command(name, **settings)(command)
        return function

    return register


def check_id(any_id: str, kind: Kind) -> str:
    """An id that is to be forgotten must be of the right kind: what is forgotten is gone. Raises `CommandError`."""
    if not any_id.startswith(f"{kind}-"):
        what = "a lease" if kind == "lease" else "an operation"
        raise CommandError(f"{any_id}: not the id of {what}: those begin with {kind}-", ExitCode.NOT_FOUND)
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
AnswerOption = Annotated[Format, typer.Option("--output", "-o", help="table for people, json for programs.")]
"""The same, for commands that talk to no daemon."""

_SHARED = (
    inspect.Parameter("api", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ApiOption),
    inspect.Parameter("key_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=KeyFileOption),
    inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=FindOption),
    inspect.Parameter("format", inspect.Parameter.KEYWORD_ONLY, default=Format.TABLE, annotation=FormatOption),
)
