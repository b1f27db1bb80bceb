"""The command line of `renewer emulator`; what it does is in `renewer.cli.emulator`, imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from renewer.cli.call import flowing

app = typer.Typer()


def emulator(
    amqp: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where Service Bus listens.")] = "127.0.0.1:5672",
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where Fabric, and the admin API under /_emulator, listen.")
    ] = "127.0.0.1:8323",
    websocket: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where Service Bus listens for AMQP over WebSocket, too.")
    ] = None,
    lock_duration: Annotated[str, typer.Option(metavar="DURATION", help="How long locks last.")] = "30s",
    queue: Annotated[
        list[str] | None,
        typer.Option(
            "--queue", metavar="NAME[:session]", help="A queue; with :session its messages have sessions. Repeatable."
        ),
    ] = None,
    token: Annotated[str, typer.Option(help="The bearer token that Fabric accepts; empty for any.")] = "local",  # noqa: S107
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run a Service Bus and a Fabric that misbehave on demand, for development and tests.

    Connection string:

    Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true

    What goes wrong is scripted at the address of --http:

    Answers, links and connections: `on` is fabric.submit, .poll, .result, .cancel or servicebus.connect, .cbs, .attach,
    .management, .transfer, .disposition; `action` is lose_reply, drop, delay (delay_s), busy (retry_after),
    unauthorized, status (status, condition), detach, close, reset or garbage; `times` is how often. DELETE ends them.

    curl 127.0.0.1:8323/_emulator/faults -d '{"on": "fabric.poll", "action": "status", "status": 503, "times": 3}'

    How Fabric operations go: GET /_emulator/scenarios lists what a script can name. The next operation fails with

    curl 127.0.0.1:8323/_emulator/scripts -d '{"scenario": "failed"}'

    A clock that is off: curl -X PUT 127.0.0.1:8323/_emulator/clock -d '{"offset_s": 30}'

    GET /_emulator/state shows what is there and has been seen.
    """
    from renewer.cli.emulator import run_emulator

    run_emulator(amqp, http, lock_duration, queue or [], token or None, websocket=websocket, log_level=log_level)


app.command(help=flowing(emulator.__doc__))(emulator)
