"""`renewer status` and `renewer drain`: the daemon itself."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import typer

from renewer.cli.exitcodes import ExitCode
from renewer.cli.output import Cell, note, print_details, print_json
from renewer.cli.views import STYLES, state_cell
from renewer.cli.words import plural, seconds, span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.cli.call import Call
    from renewer.client import Gateway, Pool, Status, Target

_LOOK_S = 0.5
_LATE_S = 0.2


def show_status(call: Call) -> None:
    """Say how the daemon is."""
    with call.client() as client:
        status = client.status()
    if call.as_json:
        print_json(status)
    else:
        print_details(status_details(status, str(call.endpoint().url)))


def status_details(status: Status, where: str) -> list[tuple[str, Cell | str]]:
    """Everything that the daemon says of itself."""
    lag = status.loop_lag_s
    return [
        ("daemon", f"renewer {status.version} at {where}"),
        ("state", state_cell(status.state)),
        ("up", span(status.uptime_s)),
        ("leases", _counts(status.leases, status.limits.get("leases"))),
        ("operations", _counts(status.operations, status.limits.get("operations"))),
        ("losses", Cell(str(status.losses), "bad" if status.losses else "")),
        ("smallest margin", span(status.min_margin_s)),
        ("loop lag", Cell(span(lag), "warn" if lag is not None and lag > _LATE_S else "")),
        ("registry", status.registry),
        *(("target", _target(target)) for target in status.targets),
        *(("pool", _pool(pool)) for pool in status.pools),
        *(("gateway", _gateway(gateway)) for gateway in status.gateways),
        *(("trouble", Cell(text, "bad")) for text in status.trouble),
    ]


def drain(call: Call, *, park: bool, off: bool, wait: str) -> None:
    """Let the daemon take no new work, and wait until no lock is held any longer; or, with `off`, end that."""
    wait_s = seconds("--wait", wait)
    with call.client() as client:
        if off:
            status = client.drain(enabled=False)
            if call.as_json:
                print_json(status)
            else:
                note("taking new work again")
            return
        status = client.drain(enabled=True, park=park)
        end, told = time.monotonic() + wait_s, ""
        # Leases that were parked are being acquired again, by whoever starts next.
        states = ("held", "at_risk") if park else ("held", "at_risk", "acquiring")
        while (left := sum(status.leases.get(state, 0) for state in states)) and time.monotonic() < end:
            text = f"draining: {plural(left, 'lease')} left"
            if text != told and sys.stderr.isatty():
                note(text)
                told = text
            time.sleep(min(_LOOK_S, max(0.0, end - time.monotonic())))
            status = client.status()
    if call.as_json:
        print_json(status)
    if not left:
        note("drained: no lock is held; stop the daemon, or let it take work again with `renewer drain --off`")
        return
    remedy = "" if park else "; --park gives them back now, to be held again by the next start"
    note(f"{plural(left, 'lease')} left after {wait}: `renewer lease ls --state held` lists them{remedy}")
    raise typer.Exit(ExitCode.TRY_AGAIN)


def counts_by_weight(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Counts by state without the zeros, in the order in which one wants to know."""
    order = list(STYLES)
    return sorted(
        ((state, count) for state, count in counts.items() if count),
        key=lambda item: order.index(item[0]) if item[0] in order else len(order),
    )


def _counts(counts: Mapping[str, int], limit: int | None) -> str:
    total = sum(counts.values())
    parts = ", ".join(f"{count} {state}" for state, count in counts_by_weight(counts))
    return f"{total}" + (f": {parts}" if parts else "") + (f" (at most {limit})" if limit else "")


def _pool(pool: Pool) -> str:
    free = f"{pool.held} free, {pool.acquiring} on their way"
    return f"{pool.name} on {pool.servicebus}: {pool.sessions} sessions, {pool.taken} taken, {free}"


def _gateway(gateway: Gateway) -> str:
    workers = ", ".join(f"{count} {name}" for name, count in gateway.keys.items() if count)
    parts = [
        f"{gateway.name} at {gateway.listen} on {gateway.servicebus}",
        plural(gateway.connections, "worker connection") + (f" ({workers})" if workers else ""),
        f"{plural(gateway.messages, 'message')} passed",
    ]
    if gateway.logging_in:
        parts.append(f"{gateway.logging_in} logging in")
    refused = ", ".join(f"{why} {count}" for why, count in gateway.refusals.items() if count)
    if refused:
        parts.append(f"refused: {refused}")
    if gateway.upstream_failures:
        parts.append(plural(gateway.upstream_failures, "upstream failure"))
    return ", ".join(parts)


def _target(target: Target) -> str:
    parts = [target.name]
    if target.connections is not None:
        parts.append(plural(target.connections, "connection"))
    if target.links is not None:
        parts.append(plural(target.links, "link"))
    if target.clock_skew_s is not None:
        parts.append(f"clock skew {span(target.clock_skew_s)}")
    return ", ".join(parts)
