"""Commands that are known by their names and by what they are for, and loaded when they are used.

To load them all takes longer than everything else that `renewer --help` and `renewer health` do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

if TYPE_CHECKING:
    from typer import Typer


class Group(TyperGroup):
    """Commands under one name."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options. A flag that is not given is False at once: typer would import pydantic to check None, 0.1 s."""
        parameters = super().get_params(ctx)
        for parameter in parameters:
            if parameter.default is None and getattr(parameter, "is_flag", False):
                parameter.default = False
        return parameters


class Later(TyperCommand):
    """The command, or group of commands, `name` of the Typer `app` in a module of this package.

    `purpose` is the first paragraph of its own help.
    """

    def __init__(self, name: str, purpose: str, module: str, app: str = "app") -> None:
        super().__init__(name=name, help=purpose)
        self._module = f"{__package__}.{module}"
        self._app = app

    def load(self) -> TyperCommand | TyperGroup:
        """The command itself."""
        app: Typer = getattr(import_module(self._module), self._app)
        group = get_group(app)
        return cast("TyperCommand | TyperGroup", group.commands.get(self.name or "", group))

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read a command line: from here on the command itself has the word."""
        return self.load().make_context(info_name, args, parent, **extra)
