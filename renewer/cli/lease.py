"""`renewer lease`: look at locks, hold, renew, release and watch them."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from renewer.cli.call import Call, add_command, check_id
from renewer.cli.exitcodes import CommandError, ExitCode
from renewer.cli.later import Group
from renewer.errors import UsageError

if TYPE_CHECKING:
    from renewer.client import Client, Lease

lease_app = typer.Typer(cls=Group, no_args_is_help=True, help="Locks: look at them, hold, renew, release, watch.")


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
_STATES = ("acquiring", "held", "at_risk", "lost", "released", "living", "ended")
_KINDS = ("session", "message")
_DEFAULT_WAIT = "10s"


@add_command(lease_app, "ls")
def ls(
    call: Call,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help="acquiring, held, at_risk, lost, released, living or ended; repeatable."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    entity: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this queue.")] = None,
    session: Annotated[str | None, typer.Option(metavar="ID", help="Only those on this session.")] = None,
    servicebus: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this namespace.")] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="session or message.")] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Only those with this label; repeatable.")
    ] = None,
    sort: Annotated[
        Sort, typer.Option(help="registered; or remaining: those nearest to expiry first.")
    ] = Sort.REGISTERED,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="At most so many; else all, or 100 by remaining."),
    ] = None,
) -> None:
    """List leases: those that live, and with --all or --state the others."""
    from itertools import islice

    from renewer.cli import words
    from renewer.cli.output import note, print_json, print_table
    from renewer.cli.views import LEASE_COLUMNS, ended_text, is_parked, lease_row

    words.check("--state", state or (), _STATES)
    words.check("--kind", [kind] if kind is not None else (), _KINDS)
    if state and all_:
        raise UsageError("--state and --all exclude each other: --state living --state ended is all of them")
    wanted: dict[str, Any] = {
        "entity": entity,
        "session_id": session,
        "servicebus": servicebus,
        "kind": kind,
        "labels": words.labels(label or []),
    }
    states = state or (() if all_ else ("living",))
    with call.client() as client:
        if sort is Sort.REMAINING:
            page = client.lease_page(**wanted, state=states, sort="remaining", limit=min(limit or 100, PAGE))
            leases = list(page.items)
        else:
            leases = list(islice(client.leases(**wanted, state=states, page_size=min(limit or PAGE, PAGE)), limit))
        left_out = 0
        if not (call.as_json or state or all_):
            left_out = len(client.lease_page(**wanted, state="ended", limit=PAGE).items)
    if call.as_json:
        print_json(leases)
        return
    if leases:
        print_table(LEASE_COLUMNS, [lease_row(lease) for lease in leases])
    elif not left_out:
        note("no such leases; `renewer lease hold ENTITY --session ID` holds one")
    if any(is_parked(lease) for lease in leases):
        note("those that are parked are held again by `renewer drain --off`, or by the daemon's next start")
    if left_out:
        note(ended_text(left_out, PAGE))


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
    with call.client("lease", lease_id) as client:
        show(call, client.lease(lease_id, wait=wait_s, until=until.value))


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
    callback: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the daemon is to POST what happens to it (CloudEvents).")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same key and the same wish: the same lease, not another.")
    ] = None,
    wait: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="How long to wait until it is held, also for a session that somebody else's lease keeps; 0 for not at "
            "all. Without it 10s, and a session that is kept already is not waited for. Nobody is queued for a pool "
            "whose sessions are all taken.",
            show_default=False,
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Hold it for as long as this command runs, and tell what happens.")
    ] = False,
) -> None:
    """Hold a session: the daemon takes its lock and renews it from now on.

    The lease lives on when this command has ended; `renewer lease release LEASE` gives it back. With --watch it lives
    as long as the command does: Ctrl-C gives it back.

    Exit code 0 when it is held, also if it was already, and the same was wished for. 69 when it can never be had (no
    such queue, a queue without sessions, no permission): no lease is left behind then. 75 when another lease keeps the
    session, when all sessions of a pool are taken, or when it is not held in time; in this last case the lease stays,
    and the daemon goes on trying. 1 when it was lost at once.
    """
    from renewer.cli import words
    from renewer.cli.hold import hold_lease, hold_while_watched

    wait_s = words.seconds("--wait", _DEFAULT_WAIT if wait is None else wait)
    wish: dict[str, Any] = {
        "entity": entity,
        "session_id": session,
        "servicebus": servicebus,
        "labels": words.labels(label or []),
        "lock_duration": words.optional_seconds("--lock-duration", lock_duration),
        "max_duration": words.optional_seconds("--max-duration", max_duration),
        "reacquire": reacquire,
        "callback": callback,
    }
    if watch:
        if owner is not OwnerChoice.NONE:
            raise UsageError("--watch and --owner exclude each other: with --watch this command is the owner")
        if idempotency_key is not None:
            raise UsageError("--watch and --idempotency-key exclude each other: what this command holds ends with it")
        hold_while_watched(call, wish, wait_s)
        return
    wish |= {**_owner(owner, ttl, pid), "idempotency_key": idempotency_key}
    hold_lease(call, wish, wait_s, again=wait is not None)


@add_command(lease_app, "heartbeat")
def heartbeat(call: Call, lease_id: LeaseId) -> None:
    """Tell that the owner of a lease lives (for leases held with --owner heartbeat)."""
    from renewer.client import Conflict

    with call.client("lease", lease_id) as client:
        try:
            lease = client.heartbeat(lease_id)
        except Conflict:
            found = client.lease(lease_id)
            if found.is_over or found.owner.kind == OwnerChoice.HEARTBEAT:
                raise
            raise CommandError(
                f"{lease_id}: takes no heartbeats, its owner is {found.owner.kind}: hold it with `--owner heartbeat`",
                ExitCode.FAILED,
            ) from None
    if call.as_json:
        show(call, lease)


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
    from renewer.cli.views import is_parked
    from renewer.client import Conflict

    wait_s = words.seconds("--wait", wait)
    with call.client("lease", lease_id) as client:
        try:
            lease = client.renew(lease_id, timeout=wait_s)
        except Conflict:
            found = client.lease(lease_id)
            if found.state != "acquiring":
                raise
            remedy = (
                "parked: `renewer drain --off` has it held again"
                if is_parked(found)
                else f"acquiring, not held yet: wait with `renewer lease get {lease_id} --wait 30s`"
            )
            raise CommandError(f"{lease_id}: is {remedy}", ExitCode.FAILED) from None
    show(call, lease)


@add_command(lease_app, "release")
def release(
    call: Call,
    lease_ids: Annotated[list[str], typer.Argument(metavar="LEASE...", help="Their ids.")],
    forget: Annotated[bool, typer.Option("--forget", help="Drop what is known of them, too.")] = False,
) -> None:
    """Give locks back; they are free when this returns.

    One that goes wrong does not keep the others; exit code 66 if one was not known.
    """

    def give_back(client: Client, lease_id: str) -> None:
        if forget:
            client.forget(check_id(lease_id, "lease"))
        else:
            client.release(lease_id)

    call.for_each("lease", lease_ids, "released", give_back)


@add_command(lease_app, "watch")
def watch_(call: Call, lease_id: LeaseId) -> None:
    """Tell what happens to one lease, renewals too, until it is over. Ctrl-C stops looking; the lease lives on.

    Exit code 0 when it was released, 1 when it was lost for good.
    """
    from renewer.cli.events import watch

    with call.client("lease", lease_id) as client:
        if watch(call, client, lease_id) == "lost":
            raise typer.Exit(ExitCode.FAILED)


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


def show(call: Call, lease: Lease) -> None:
    """One lease, to people or programs."""
    from renewer.cli.output import print_details, print_json
    from renewer.cli.views import lease_details

    if call.as_json:
        print_json(lease)
    else:
        print_details(lease_details(lease))
