"""`renewer op`: have long-running operations followed to their end, and read what came of them."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from renewer.cli.call import Call, add_command, check_id
from renewer.cli.exitcodes import CommandError, ExitCode
from renewer.cli.later import Group
from renewer.cli.opterms import (
    AccountOption,
    CallbackOption,
    DeadlineOption,
    EarlyProbeOption,
    FinalStateViaOption,
    KeyOption,
    LabelsOption,
    PollHeaderOption,
    PollQueryOption,
    ProtocolOption,
    WaitOption,
    follow_options,
    headers,
)
from renewer.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from renewer.cli.curl import RawAnswer
    from renewer.client import Operation

op_app = typer.Typer(cls=Group, no_args_is_help=True, help="Long-running operations: submit, adopt, wait for, read.")

PAGE = 1000
"""As many items as the daemon gives at once."""

_STATES = (
    "accepted",
    "running",
    "fetching",
    "succeeded",
    "failed",
    "canceled",
    "expired",
    "timed_out",
    "unpollable",
    "rejected",
    "living",
    "ended",
)

OperationId = Annotated[
    str, typer.Argument(metavar="OPERATION", help="The operation's id, as `renewer op ls` shows it.")
]


@add_command(op_app, "submit")
def submit(
    call: Call,
    method: Annotated[str, typer.Argument(metavar="METHOD", help="POST, as a rule.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="The whole URL, or the path below the account's base_url.")],
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME: VALUE", help="Repeatable.")
    ] = None,
    body: Annotated[
        str | None, typer.Option("--body", "-d", metavar="JSON|@FILE|-", help="The body: JSON, a file, or stdin.")
    ] = None,
    account: AccountOption = None,
    label: LabelsOption = None,
    callback: CallbackOption = None,
    idempotency_key: KeyOption = None,
    wait: WaitOption = None,
    protocol: ProtocolOption = None,
    final_state_via: FinalStateViaOption = None,
    poll_query: PollQueryOption = None,
    poll_header: PollHeaderOption = None,
    early_probe: EarlyProbeOption = None,
    deadline: DeadlineOption = None,
) -> None:
    """Have the daemon send a request, with its own token, and follow what it starts.

    renewer op submit POST /workspaces/ID/notebooks -d '{"displayName": "n"}' --wait 10m
    """
    from renewer.cli import words

    wait_s = words.optional_seconds("--wait", wait) or 0.0
    options = follow_options(
        account=account,
        label=label,
        callback=callback,
        protocol=protocol,
        final_state_via=final_state_via,
        poll_query=poll_query,
        poll_header=poll_header,
        early_probe=early_probe,
        deadline=deadline,
    )
    with call.client() as client:
        operation = client.submit(
            method.upper(),
            url,
            headers=headers("--header", header or []),
            body=_json_body(body) if body is not None else None,
            idempotency_key=idempotency_key,
            wait=wait_s,
            **options,
        )
    _show_begun(call, operation, waited=wait)


@add_command(op_app, "adopt")
def adopt(
    call: Call,
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE|-", help="The answer as `curl -si` prints it; - for stdin.", show_default=False),
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="FILE|-", help="The same as FILE.", show_default=False)
    ] = None,
    method: Annotated[str, typer.Option(metavar="METHOD", help="The method that was asked with.")] = "POST",
    url: Annotated[str, typer.Option(metavar="URL", help="The URL that was asked.")] = ...,  # type: ignore[assignment]
    status: Annotated[int | None, typer.Option(metavar="N", help="The status, where no FILE says it.")] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME: VALUE", help="A header that came; repeatable."),
    ] = None,
    body: Annotated[
        str | None, typer.Option("--body", "-d", metavar="JSON|@FILE|-", help="The body that came.")
    ] = None,
    account: AccountOption = None,
    label: LabelsOption = None,
    callback: CallbackOption = None,
    idempotency_key: KeyOption = None,
    wait: WaitOption = None,
    protocol: ProtocolOption = None,
    final_state_via: FinalStateViaOption = None,
    poll_query: PollQueryOption = None,
    poll_header: PollHeaderOption = None,
    early_probe: EarlyProbeOption = None,
    deadline: DeadlineOption = None,
) -> None:
    """Have an operation followed that you started yourself, by its first answer.

    curl -si -X POST -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' "$URL" -d "$BODY" | renewer
    op adopt --url "$URL" -
    """
    from renewer.cli import words

    wait_s = words.optional_seconds("--wait", wait) or 0.0
    options = follow_options(
        account=account,
        label=label,
        callback=callback,
        protocol=protocol,
        final_state_via=final_state_via,
        poll_query=poll_query,
        poll_header=poll_header,
        early_probe=early_probe,
        deadline=deadline,
    )
    answer = _given_answer(file, from_, status, header or [], body)
    with call.client() as client:
        operation = client.adopt(
            method.upper(),
            url,
            answer.status,
            headers=answer.headers,
            body=answer.body,
            idempotency_key=idempotency_key,
            wait=wait_s,
            **options,
        )
    _show_begun(call, operation, waited=wait)


@add_command(op_app, "ls")
def ls(
    call: Call,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help="accepted, running, succeeded, failed …, living or ended; repeatable."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this account.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Only those with this label; repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most so many; else all.")] = None,
) -> None:
    """List operations: those under way, and with --all or --state the others."""
    from renewer.cli import words
    from renewer.cli.output import note, print_json
    from renewer.cli.views import ended_text

    words.check("--state", state or (), _STATES)
    if state and all_:
        raise UsageError("--state and --all exclude each other: --state living --state ended is all of them")
    wanted: dict[str, Any] = {"account": account, "labels": words.labels(label or [])}
    states = state or (() if all_ else ("living",))
    with call.client() as client:
        operations = list(islice(client.operations(**wanted, state=states, page_size=min(limit or PAGE, PAGE)), limit))
        left_out = 0
        if not (call.as_json or state or all_):
            left_out = len(client.operation_page(**wanted, state="ended", limit=PAGE).items)
    if call.as_json:
        print_json(operations)
        return
    if operations:
        _print(operations)
    elif not left_out:
        note("no operations; `renewer op submit --help` tells how to have one followed")
    if left_out:
        note(ended_text(left_out, PAGE))


@add_command(op_app, "get")
def get(call: Call, operation_id: OperationId) -> None:
    """Show one operation."""
    with call.client("op", operation_id) as client:
        _show(call, client.operation(operation_id))


@add_command(op_app, "wait")
def wait_(
    call: Call,
    operation_ids: Annotated[list[str], typer.Argument(metavar="OPERATION...", help="Their ids.")],
    any_: Annotated[bool, typer.Option("--any", help="Return when the first has ended, not the last.")] = False,
    timeout: Annotated[
        str | None, typer.Option(metavar="DURATION", help="For no longer than this; else for as long as it takes.")
    ] = None,
) -> None:
    """Wait until operations have ended.

    Exit code 0 when all of them succeeded (with --any: those that have ended), 1 when one did not, 66 when one is not
    known, 75 when they have not ended in time.
    """
    from renewer.cli import words
    from renewer.cli.output import note, print_json, printable

    timeout_s = words.optional_seconds("--timeout", timeout)
    with call.client() as client:
        waited = client.wait_many(operation_ids, until="any" if any_ else "all", timeout=timeout_s)
    if call.as_json:
        print_json(waited.items)
    elif waited.items:
        _print(waited.items)
    for missing in waited.missing:
        note(f"{printable(missing)}: not known; `renewer op ls` lists operations")
    if waited.missing:
        raise typer.Exit(ExitCode.NOT_FOUND)
    if not waited.done:
        left = sum(not operation.is_over for operation in waited.items)
        note(f"{left} of {len(operation_ids)} had not ended after {timeout}; they are followed on")
        raise typer.Exit(ExitCode.TRY_AGAIN)
    if any(operation.is_over and not operation.succeeded for operation in waited.items):
        raise typer.Exit(ExitCode.FAILED)


@add_command(op_app, "result", answers=False)
def result(
    call: Call,
    operation_id: OperationId,
    out: Annotated[
        Path | None, typer.Option("--out", "-O", metavar="FILE", help="Write it there, not to stdout.")
    ] = None,
) -> None:
    """Write an operation's result, byte for byte.

    Exit code 1 when it ended without success, 75 when it has not ended yet.
    """
    from renewer.cli.output import note
    from renewer.client import Conflict, Result

    with call.client("op", operation_id) as client:
        try:
            found = client.result(operation_id) if out is None else client.save_result(operation_id, out)
        except Conflict:
            operation = client.operation(operation_id)
            if operation.is_over:
                raise CommandError(
                    f"{operation_id} ended as {operation.state}, without a result; `renewer op get {operation_id}` "
                    "tells why",
                    ExitCode.FAILED,
                ) from None
            raise CommandError(
                f"{operation_id} is {operation.state}: wait for it with `renewer op wait {operation_id}`",
                ExitCode.TRY_AGAIN,
            ) from None
        except OSError as error:
            raise CommandError(f"{out}: cannot be written: {error.strerror}", ExitCode.CANNOT_CREATE) from error
    if found.kind == "none":
        note(f"{operation_id} succeeded and has no result")
    if isinstance(found, Result):
        sys.stdout.buffer.write(found.content)
        sys.stdout.buffer.flush()


@add_command(op_app, "cancel")
def cancel(call: Call, operation_id: OperationId) -> None:
    """Ask the service to cancel an operation; its state tells, in time, what came of it."""
    with call.client("op", operation_id) as client:
        _show(call, client.cancel(operation_id))


@add_command(op_app, "forget")
def forget(
    call: Call,
    operation_ids: Annotated[list[str], typer.Argument(metavar="OPERATION...", help="Their ids.")],
) -> None:
    """Stop following operations, and drop what is known of them, results too. The service is not asked to cancel.

    One that goes wrong does not keep the others; exit code 66 if one was not known.
    """
    call.for_each(
        "op", operation_ids, "forgotten", lambda client, operation_id: client.forget(check_id(operation_id, "op"))
    )


def _show(call: Call, operation: Operation) -> None:
    from renewer.cli.output import print_details, print_json
    from renewer.cli.views import operation_details

    if call.as_json:
        print_json(operation)
    else:
        print_details(operation_details(operation))


def _print(operations: Sequence[Operation]) -> None:
    from renewer.cli.output import print_table
    from renewer.cli.views import OPERATION_COLUMNS, operation_row

    print_table(OPERATION_COLUMNS, [operation_row(operation) for operation in operations])


def _show_begun(call: Call, operation: Operation, *, waited: str | None) -> None:
    from renewer.cli.output import note

    _show(call, operation)
    if operation.is_over:
        if not operation.succeeded:
            raise typer.Exit(ExitCode.FAILED)
        if not call.as_json and operation.result is not None and operation.result.kind != "none":
            note(f"`renewer op result {operation.id}` writes the result")
    elif waited is not None:
        note(f"not ended after {waited}; it is followed on: `renewer op wait {operation.id}`")
        raise typer.Exit(ExitCode.TRY_AGAIN)
    elif not call.as_json:
        note(f"`renewer op wait {operation.id}` returns when it has ended")


def _given_answer(
    file: str | None, from_: str | None, status: int | None, header: list[str], body: str | None
) -> RawAnswer:
    from renewer.cli.curl import RawAnswer, parse_answer

    if file is not None and from_ is not None:
        raise CommandError("the answer is given twice: as FILE and with --from", ExitCode.USAGE)
    source = file if file is not None else from_
    if source is not None:
        if status is not None or header or body is not None:
            raise CommandError(
                "the answer is given twice: in a file, and with --status, --header or --body", ExitCode.USAGE
            )
        return parse_answer(_read(source), "stdin" if source == "-" else source)
    if status is None:
        raise CommandError(
            "what was the answer? Give what `curl -si` printed, as FILE or - for stdin; or --status, --header, --body",
            ExitCode.USAGE,
        )
    return RawAnswer(status, headers("--header", header), _json_body(body, strict=False) if body is not None else None)


def _json_body(given: str, *, strict: bool = True) -> Any:
    import json

    from renewer.cli.curl import parse_body

    source = given if given == "-" else given.removeprefix("@") if given.startswith("@") else None
    raw = _read(source) if source is not None else given.encode("utf-8", "surrogateescape")
    name = "--body" if source is None else "stdin" if source == "-" else source
    body = parse_body(raw, name)
    if strict and isinstance(body, str):
        try:
            json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise CommandError(f"{name}: must be JSON: {error}", ExitCode.DATA) from None
    return body


def _read(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except FileNotFoundError:
        raise CommandError(f"{source}: there is no such file", ExitCode.NOT_FOUND) from None
    except PermissionError:
        raise CommandError(f"{source}: not permitted to read it", ExitCode.NO_PERMISSION) from None
    except OSError as error:
        raise CommandError(f"{source}: cannot be read: {error.strerror}", ExitCode.IO) from error
