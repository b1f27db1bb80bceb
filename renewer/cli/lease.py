"""`renewer lease`: look at locks, hold, renew, release and watch them."""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from renewer.cli.call import Call, add_command, check_id
from renewer.cli.exitcodes import CommandError, ExitCode
from renewer.errors import UsageError

if TYPE_CHECKING:
    from renewer.client import Lease

lease_app = typer.Typer(no_args_is_help=True, help="Locks: look at them, hold, renew, release, watch.")


class Sort(StrEnum):
    """The order of a list of leases."""

    REGISTERED = "registered"
    REMAINING = "remaining"


class Until(StrEnum):
    """What to wait for."""

    SETTLED = "settled"
    OVER = "over"


class OwnerChoice(StrEnum):
    """How the daemon knows that whoever wants the lock lives."""

    NONE = "none"
    HEARTBEAT = "heartbeat"
    PID = "pid"


PAGE = 1000
"""As many items as the daemon gives at once."""

LeaseId = Annotated[str, typer.Argument(metavar="LEASE", help="The lease's id, as `renewer lease ls` shows it.")]
LabelsOption = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A word of your own; repeatable.")
]


@add_command(lease_app, "ls")
def ls(
    call: Call,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help="acquiring, held, at_risk, lost or released; repeatable."),
    ] = None,
    entity: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this queue.")] = None,
    session: Annotated[str | None, typer.Option(metavar="ID", help="Only those on this session.")] = None,
    servicebus: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this namespace.")] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="session or message.")] = None,
    label: LabelsOption = None,
    sort: Annotated[
        Sort, typer.Option(help="registered; or remaining: those nearest to expiry first.")
    ] = Sort.REGISTERED,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="At most so many; else all, or 100 by remaining."),
    ] = None,
) -> None:
    """List leases."""
    from itertools import islice

    from renewer.cli import words
    from renewer.cli.output import note, print_json, print_table
    from renewer.cli.views import LEASE_COLUMNS, lease_row

    wanted: dict[str, Any] = {
        "state": state or (),
        "entity": entity,
        "session_id": session,
        "servicebus": servicebus,
        "kind": kind,
        "labels": words.labels(label or []),
    }
    with call.client() as client:
        if sort is Sort.REMAINING:
            leases = list(client.lease_page(**wanted, sort="remaining", limit=min(limit or 100, PAGE)).items)
        else:
            leases = list(islice(client.leases(**wanted, page_size=min(limit or PAGE, PAGE)), limit))
    if call.as_json:
        print_json(leases)
    elif leases:
        print_table(LEASE_COLUMNS, [lease_row(lease) for lease in leases])
    else:
        note("no such leases; `renewer lease hold ENTITY --session ID` holds one")


@add_command(lease_app, "get")
def get(
    call: Call,
    lease_id: LeaseId,
    wait: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Wait for as long as this for what --until says.")
    ] = None,
    until: Annotated[
        Until, typer.Option(help="settled: no longer being acquired; over: lost for good or released.")
    ] = Until.SETTLED,
) -> None:
    """Show one lease."""
    from renewer.cli import words

    wait_s = words.optional_seconds("--wait", wait) or 0.0
    with call.client() as client:
        _show(call, client.lease(lease_id, wait=wait_s, until=until.value))


@add_command(lease_app, "hold")
def hold(
    call: Call,
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="A queue or topic/Subscriptions/name.")],
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="Which session; else the next available one.", show_default=False)
    ] = None,
    servicebus: Annotated[str | None, typer.Option(metavar="NAME", help="Which namespace, if many.")] = None,
    owner: Annotated[
        OwnerChoice,
        typer.Option(
            metavar="HOW",
            help="none: until it is released; heartbeat: while `renewer lease heartbeat` is called in time; pid: while "
            "a process lives.",
        ),
    ] = OwnerChoice.NONE,
    ttl: Annotated[str | None, typer.Option(metavar="DURATION", help="How far apart heartbeats may be.")] = None,
    pid: Annotated[
        int | None, typer.Option(metavar="PID", min=1, help="The process; without it the one that runs this command.")
    ] = None,
    label: LabelsOption = None,
    lock_duration: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long the entity's locks last, if clocks differ.")
    ] = None,
    reacquire: Annotated[
        bool | None,
        typer.Option("--reacquire/--no-reacquire", help="Whether to take a lost session again.", show_default=False),
    ] = None,
    max_duration: Annotated[str | None, typer.Option(metavar="DURATION", help="Give it up after this long.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same key and the same wish: the same lease, not another.")
    ] = None,
    wait: Annotated[
        str, typer.Option(metavar="DURATION", help="How long to wait until it is held; 0 for not at all.")
    ] = "10s",
    watch: Annotated[
        bool, typer.Option("--watch", help="Hold it for as long as this command runs, and tell what happens.")
    ] = False,
) -> None:
    """Hold a session: the daemon takes its lock and renews it from now on.

    The lease lives on when this command has ended; `renewer lease release LEASE` gives it back. With --watch it lives
    as long as the command does: Ctrl-C gives it back.

    Exit code 0 when it is held, 1 when it cannot be had, 75 when it is not held in time (the daemon goes on trying).
    """
    from renewer.cli import words

    wait_s = words.seconds("--wait", wait)
    wish: dict[str, Any] = {
        "entity": entity,
        "session_id": session,
        "servicebus": servicebus,
        "labels": words.labels(label or []),
        "lock_duration": words.optional_seconds("--lock-duration", lock_duration),
        "max_duration": words.optional_seconds("--max-duration", max_duration),
        "reacquire": reacquire,
    }
    if watch:
        if owner is not OwnerChoice.NONE:
            raise UsageError("--watch and --owner exclude each other: with --watch this command is the owner")
        if idempotency_key is not None:
            raise UsageError("--watch and --idempotency-key exclude each other: what this command holds ends with it")
        _hold_while_watched(call, wish, wait_s)
        return
    with call.client() as client:
        lease = client.hold(**wish, **_owner(owner, ttl, pid), wait=wait_s, idempotency_key=idempotency_key)
    _show(call, lease)
    _say_what_next(call, lease, wait)


@add_command(lease_app, "heartbeat")
def heartbeat(call: Call, lease_id: LeaseId) -> None:
    """Tell that the owner of a lease lives (for leases held with --owner heartbeat)."""
    with call.client() as client:
        lease = client.heartbeat(lease_id)
    if call.as_json:
        _show(call, lease)


@add_command(lease_app, "renew")
def renew(
    call: Call,
    lease_id: LeaseId,
    wait: Annotated[str, typer.Option(metavar="DURATION", help="How long it may take.")] = "10s",
) -> None:
    """Renew a lock now. The daemon does so by itself; this is to see that it can.

    Exit code 0 when it is renewed, 1 when it is lost or not held, 75 when the broker gave no answer in time.
    """
    from renewer.cli import words

    wait_s = words.seconds("--wait", wait)
    with call.client() as client:
        _show(call, client.renew(lease_id, timeout=wait_s))


@add_command(lease_app, "release")
def release(
    call: Call,
    lease_ids: Annotated[list[str], typer.Argument(metavar="LEASE...", help="Their ids.")],
    forget: Annotated[bool, typer.Option("--forget", help="Drop what is known of them, too.")] = False,
) -> None:
    """Give locks back; they are free when this returns."""
    with call.client() as client:
        for lease_id in lease_ids:
            if forget:
                client.forget(check_id(lease_id, "lease"))
            else:
                client.release(lease_id)
    if call.as_json:
        from renewer.cli.output import print_json

        print_json({"released": lease_ids})


@add_command(lease_app, "watch")
def watch_(call: Call, lease_id: LeaseId) -> None:
    """Tell what happens to one lease, renewals too, until it is over. Ctrl-C stops looking; the lease lives on.

    Exit code 0 when it was released, 1 when it was lost for good.
    """
    from renewer.cli.events import tell_all

    with call.client() as client:
        if tell_all(call, client.watch(lease_id)) == "lease.lost":
            raise typer.Exit(ExitCode.FAILED)


def _hold_while_watched(call: Call, wish: dict[str, Any], wait_s: float) -> None:
    """Hold a session that this command owns, tell what happens, and give it back in the end, however that comes."""
    from renewer.cli.events import tell_all
    from renewer.client import LockLost

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    if wish["reacquire"] is None:
        del wish["reacquire"]
    with call.client() as client:
        try:
            with client.session(**wish, wait=wait_s) as session:
                if tell_all(call, client.watch(session.lease.id)) == "lease.lost":
                    raise typer.Exit(ExitCode.FAILED)
        except LockLost as error:
            raise CommandError(str(error), ExitCode.FAILED) from error


def _leave(number: int, _frame: object) -> NoReturn:
    """Leave by way of every `with`, so that what is held is given back."""
    raise typer.Exit(ExitCode.SIGNALLED + number)


def _owner(choice: OwnerChoice, ttl: str | None, pid: int | None) -> dict[str, Any]:
    from renewer.cli import words

    owner: dict[str, Any] = {"owner": choice.value}
    if choice is OwnerChoice.PID:
        owner["pid"] = pid if pid is not None else os.getppid()
    elif pid is not None:
        raise UsageError("--pid goes with --owner pid")
    if ttl is not None:
        if choice is not OwnerChoice.HEARTBEAT:
            raise UsageError("--ttl goes with --owner heartbeat")
        owner["owner_ttl"] = words.seconds("--ttl", ttl)
    return owner


def _show(call: Call, lease: Lease) -> None:
    from renewer.cli.output import print_details, print_json
    from renewer.cli.views import lease_details

    if call.as_json:
        print_json(lease)
    else:
        print_details(lease_details(lease))


def _say_what_next(call: Call, lease: Lease, wait: str) -> None:
    from renewer.cli.output import note

    state = str(lease.state)
    if state == "acquiring":
        why = f" ({lease.last_error})" if lease.last_error else ""
        note(
            f"not held after {wait}{why}; the daemon goes on trying. Look with `renewer lease get {lease.id}`, give up "
            f"with `renewer lease release {lease.id}`"
        )
        raise typer.Exit(ExitCode.TRY_AGAIN)
    if state in ("lost", "released"):
        loss = lease.last_loss
        note(f"it could not be had: {loss.reason}: {loss.detail}" if loss is not None else f"it is {state} already")
        raise typer.Exit(ExitCode.FAILED)
    if not call.as_json:
        note(f"held; `renewer lease release {lease.id}` gives it back")
