"""The command line of `renewer demo`; what it does is imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from renewer.cli.call import flowing
from renewer.errors import UsageError

app = typer.Typer()


def demo(
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="Stop after this long; else Ctrl-C stops it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="No live table; one JSON object at the end.")] = False,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="A worker that blocks its event loop, with the gateway and without it.")
    ] = False,
    lock: Annotated[
        str | None, typer.Option(metavar="DURATION", help="With --gateway: how long locks last; else 10s.")
    ] = None,
    block: Annotated[
        str | None, typer.Option(metavar="DURATION", help="With --gateway: how long the workers block; else 30s.")
    ] = None,
) -> None:
    """See the daemon at work against the emulator: three sessions held, five Fabric operations followed.

    With --json the exit code is 0 only if nothing was lost and every operation ended as scripted.

    --gateway runs a worker with azure-servicebus twice, through the gateway and on its own, and ends when they have.
    The exit code is 0 only if the one kept its lock and the other lost it.
    """
    if gateway:
        from renewer.cli.gatewaydemo import BLOCK, LOCK, run_gateway_demo

        run_gateway_demo(for_, lock or LOCK, block or BLOCK, as_json=as_json)
        return
    if lock is not None or block is not None:
        raise UsageError("--lock and --block go with --gateway")
    from renewer.cli.demo import run_demo

    run_demo(for_, as_json=as_json)


app.command(help=flowing(demo.__doc__))(demo)
