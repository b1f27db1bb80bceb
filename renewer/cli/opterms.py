"""The options of `renewer op submit` and `renewer op adopt` that say how an operation is to be followed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from renewer.cli import words
from renewer.cli.exitcodes import CommandError, ExitCode
from renewer.errors import UsageError
from renewer.ports import FinalStateVia, FollowProtocol

if TYPE_CHECKING:
    from renewer.client.options import OperationOptions

_PANEL = "Following"
_OFF = "off"

AccountOption = Annotated[str | None, typer.Option(metavar="NAME", help="Which account, where there are several.")]
LabelsOption = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A word of your own; repeatable.")
]
KeyOption = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="The same key and the same wish: the same operation, not another."),
]
CallbackOption = Annotated[
    str | None, typer.Option(metavar="URL", help="Where the daemon is to POST how it ended (CloudEvents).")
]
WaitOption = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="Wait until it has ended: exit code 0, 1 if it failed, 75 if not in time."),
]
DeadlineOption = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="Give up after this long; else as configured.", rich_help_panel=_PANEL),
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        metavar="WORD",
        help="How the service tells how it stands: operation-location, azure-async-operation or location, after the "
        "header of its first answer; body, by the resource itself. Else by whichever the answer has (auto), as it "
        "always is for Fabric accounts.",
        rich_help_panel=_PANEL,
    ),
]
FinalStateViaOption = Annotated[
    str | None,
    typer.Option(
        metavar="WORD",
        help="Where the result is, as the API's specification says in x-ms-long-running-operation-options: "
        "operation-location, azure-async-operation, location or original-uri. Else by the rules of the protocol.",
        rich_help_panel=_PANEL,
    ),
]
PollQueryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--poll-query",
        metavar="NAME=VALUE",
        help="A query parameter to add to each poll that lacks it, such as api-version=2024-01-01; repeatable.",
        rich_help_panel=_PANEL,
    ),
]
PollHeaderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--poll-header",
        metavar="NAME: VALUE",
        help="A header to send with each poll; repeatable.",
        rich_help_panel=_PANEL,
    ),
]
EarlyProbeOption = Annotated[
    str | None,
    typer.Option(
        metavar="DURATION",
        help="Ask once so soon after the first answer, whatever Retry-After says: short operations end sooner so. "
        "off: do not. Else as configured.",
        rich_help_panel=_PANEL,
    ),
]


def follow_options(
    *,
    account: str | None,
    label: list[str] | None,
    callback: str | None,
    protocol: str | None,
    final_state_via: str | None,
    poll_query: list[str] | None,
    poll_header: list[str] | None,
    early_probe: str | None,
    deadline: str | None,
) -> OperationOptions:
    """Read the options. Raises `UsageError` or `CommandError` that names the one that is wrong."""
    words.check("--protocol", _given(protocol), get_args(FollowProtocol))
    words.check("--final-state-via", _given(final_state_via), get_args(FinalStateVia))
    return {
        "account": account,
        "labels": words.labels(label or []),
        "callback": callback,
        "protocol": cast("FollowProtocol | None", protocol),
        "final_state_via": cast("FinalStateVia | None", final_state_via),
        "poll_query": _pairs(poll_query or []),
        "poll_headers": headers("--poll-header", poll_header or []),
        "early_probe": 0.0 if early_probe == _OFF else words.optional_seconds("--early-probe", early_probe),
        "deadline": words.optional_seconds("--deadline", deadline),
    }


def headers(option: str, given: list[str]) -> dict[str, str]:
    """Read ``NAME: VALUE`` of a repeatable option. Raises `CommandError`, without the value, which may be a secret."""
    found: dict[str, str] = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise CommandError(f"{option}: must be NAME: VALUE, as in {option} 'Accept: text/plain'", ExitCode.USAGE)
        found[name.strip()] = value.strip()
    return found


def _pairs(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError("--poll-query: must be NAME=VALUE, as in --poll-query api-version=2024-01-01")
        found[name] = value
    return found


def _given(text: str | None) -> tuple[str, ...]:
    return () if text is None else (text,)
