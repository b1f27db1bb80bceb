"""`renewer emulator`."""

from __future__ import annotations

import functools
import signal
from contextlib import closing

import anyio
import anyio.abc
import structlog

from renewer.config import TcpListen, parse_api_listen, parse_duration
from renewer.daemon.garbage import collect_seldom
from renewer.emulator import Emulator, QueueSpec
from renewer.errors import UsageError
from renewer.observe import configure_logging

_log = structlog.get_logger("renewer.emulator")


def run_emulator(
    amqp: str,
    http: str,
    lock_duration: str,
    queues: list[str],
    token: str | None,
    *,
    websocket: str | None = None,
    log_level: str,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises `UsageError` for options that make no sense."""
    try:
        lock_duration_s = parse_duration(lock_duration).total_seconds()
    except ValueError as error:
        raise UsageError(f"--lock-duration {lock_duration}: {error}") from error
    emulator = Emulator([_queue(text) for text in queues], lock_duration_s=lock_duration_s, token=token)
    with closing(configure_logging(level=log_level)):
        third = None if websocket is None else _address("--websocket", websocket)
        # A broker that stops for a tenth of a second now and then is not what is to be tried, or measured.
        collect_seldom()
        anyio.run(_serve, emulator, _address("--amqp", amqp), _address("--http", http), third)


async def _serve(
    emulator: Emulator, amqp: tuple[str, int], http: tuple[str, int], websocket: tuple[str, int] | None
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:
            amqp_port, http_port = await tasks.start(functools.partial(emulator.run, amqp, http, websocket=websocket))
            _log.info("emulator ready", amqp=f"{amqp[0]}:{amqp_port}", http=f"{http[0]}:{http_port}")
            async for _ in signals:
                break
            tasks.cancel_scope.cancel()
    _log.info("emulator stopped")


def _address(option: str, text: str) -> tuple[str, int]:
    try:
        listen = parse_api_listen(f"tcp:{text}")
    except ValueError as error:
        raise UsageError(f"{option} {text}: must be HOST:PORT such as 127.0.0.1:5672") from error
    if not isinstance(listen, TcpListen):
        raise UsageError(f"{option} {text}: must be HOST:PORT such as 127.0.0.1:5672")
    return listen.host, listen.port


def _queue(text: str) -> QueueSpec:
    name, _, kind = text.partition(":")
    if not name or kind not in ("", "session"):
        raise UsageError(f"--queue {text}: must be NAME, or NAME:session for a queue whose messages have sessions")
    return QueueSpec(name, requires_session=kind == "session")
