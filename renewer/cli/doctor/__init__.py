"""`renewer doctor`: looks at everything that the daemon depends on, and says what is wrong and what to do about it.

It works with and without a running daemon, takes no lock and changes nothing. Subjects are looked at side by side, the
checks of one subject one after the other, each with a time-out of its own.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
import anyio.to_thread

from renewer.cli.doctor import doors, limits, secretfiles, statedir
from renewer.cli.doctor.accounts import examine_account
from renewer.cli.doctor.findings import Examination, Finding, Outcome, Verdict, fail, ok, worst
from renewer.cli.doctor.gateways import examine_gateway
from renewer.cli.doctor.namespaces import examine_namespace
from renewer.cli.doctor.report import Progress, print_document, print_findings
from renewer.cli.doctor.running import ask_status, is_our_metrics_page, judge_status
from renewer.cli.exitcodes import ExitCode
from renewer.cli.overrides import parse_overrides
from renewer.config import UnixListen, load
from renewer.daemon.clock import SystemClock
from renewer.errors import ConfigError
from renewer.observe import configure_logging

if TYPE_CHECKING:
    from renewer.config import Settings

_T = TypeVar("_T")


def run_doctor(config: Path | None, overrides: list[str], output: Literal["table", "json"]) -> ExitCode:
    """Look, tell, and say how it came out. Raises `UsageError` for overrides that make no sense."""
    try:
        settings = load(config, environ=os.environ, overrides=parse_overrides(overrides))
    except ConfigError as error:
        # What the rest of it means is not known: to look for more would find what is not wrong.
        _print(_mistakes(error), output)
        return ExitCode.CONFIG
    progress = Progress()
    # What the parts log is told as findings.
    with closing(configure_logging(level="critical")), progress.showing():
        findings = anyio.run(examine, config, settings, progress)
    _print(findings, output)
    return ExitCode.FAILED if worst(findings) is Verdict.FAIL else ExitCode.OK


async def examine(config: Path | None, settings: Settings, progress: Progress | None = None) -> list[Finding]:
    """All findings, in an order that is always the same."""
    progress = Progress() if progress is None else progress
    clock = SystemClock()
    configuration = Examination("configuration")
    configuration.add("settings", ok(_described(config, settings)))
    parts: list[tuple[Examination, Callable[[Examination], Coroutine[Any, Any, None]]]] = []

    def plan(subject: str, work: Callable[[Examination], Coroutine[Any, Any, None]]) -> None:
        parts.append((Examination(subject, progress.changed), work))

    plan("state_dir", functools.partial(_examine_state_dir, settings=settings))
    if files := secretfiles.secret_files(settings, config):
        plan("secrets", functools.partial(_examine_secrets, files=files))
    plan("daemon", functools.partial(_examine_daemon, settings=settings))
    plan("metrics", functools.partial(_examine_metrics, settings=settings))
    for name in settings.servicebus:
        plan(f"servicebus.{name}", functools.partial(examine_namespace, name=name, settings=settings, clock=clock))
    for number, gateway in enumerate(settings.gateway):
        called = f"gateway.{settings.gateway_name(gateway)}"
        plan(called, functools.partial(examine_gateway, number=number, settings=settings, clock=clock))
    for name, section in settings.accounts():
        plan(name, functools.partial(examine_account, name=name, section=section, clock=clock))
    progress.examinations = [examination for examination, _ in parts]
    async with anyio.create_task_group() as tasks:
        for examination, work in parts:
            tasks.start_soon(work, examination)
    return [finding for examination in (configuration, *progress.examinations) for finding in examination.findings]


async def _examine_state_dir(examination: Examination, settings: Settings) -> None:
    path = settings.daemon.state_dir
    remedy = "the disk or the permissions of daemon.state_dir: look with `ls -ld` and `df`, or set another one"
    place = await _check_blocking(examination, "directory", statedir.examine_place, path, remedy=remedy)
    if place is None:
        return
    if place == path:
        await _check_blocking(examination, "writing", statedir.examine_writing, place, remedy=remedy)
    await _check_blocking(examination, "space", statedir.examine_space, place, remedy=remedy)
    await _check_blocking(examination, "file system", statedir.examine_file_system, place, remedy=remedy)
    if place == path:
        await _check_blocking(examination, "registry", statedir.examine_registry, place, remedy=remedy)


async def _examine_secrets(examination: Examination, files: list[secretfiles.SecretFile]) -> None:
    for file in files:
        remedy = "the disk of that file: look with `ls -lL`"
        await _check_blocking(examination, file.setting, secretfiles.examine_secret_file, file, remedy=remedy)


async def _examine_daemon(examination: Examination, settings: Settings) -> None:
    listen = settings.api.listen
    remedy = "choose another api.listen"
    if isinstance(listen, UnixListen):
        peer = await _check_blocking(examination, "socket", doors.examine_unix_door, listen, remedy=remedy)
    else:
        peer = await _check_blocking(examination, "port", doors.examine_tcp_door, listen, "api.listen", remedy=remedy)
    if peer is None:
        examination.add("status", ok("no daemon runs; what it would find is looked at all the same"))
    else:
        status = await examination.check(
            "status", functools.partial(ask_status, settings), remedy="look at the daemon's log, and restart it"
        )
        for name, outcome in judge_status(status) if status is not None else ():
            examination.add(name, outcome)
    pid = None if peer is None else peer.pid
    unknown = "the system does not say; nothing needs to be done"
    await _check_blocking(examination, "files", limits.examine_files, settings, pid, remedy=unknown)
    await _check_blocking(examination, "memory", limits.examine_memory, settings, pid, remedy=unknown)
    await _check_blocking(examination, "clock", limits.examine_clock, remedy=unknown)


async def _examine_metrics(examination: Examination, settings: Settings) -> None:
    listen = settings.metrics.listen
    if listen is None:
        examination.add("port", ok("off"))
        return

    async def look() -> Outcome[None]:
        door = await _in_thread(doors.examine_tcp_door, listen, "metrics.listen")
        if door.value is None:
            return Outcome(door.verdict, door.seen, door.remedy)
        if await is_our_metrics_page(listen):
            return ok(f"{listen.authority} is a daemon's metrics page")
        return fail(
            f"{listen.authority} is used by something else", "end what uses it, or set another metrics.listen, or off"
        )

    await examination.check("port", look, remedy="set another metrics.listen")


async def _check_blocking(
    examination: Examination, name: str, work: Callable[..., Outcome[_T]], *arguments: object, remedy: str
) -> _T | None:
    return await examination.check(name, functools.partial(_in_thread, work, *arguments), remedy=remedy)


async def _in_thread(work: Callable[..., Outcome[_T]], *arguments: object) -> Outcome[_T]:
    # A disk or a file server that does not answer is left to itself when the time is up.
    return await anyio.to_thread.run_sync(functools.partial(work, *arguments), abandon_on_cancel=True)


def _described(config: Path | None, settings: Settings) -> str:
    where = "defaults and environment, no file" if config is None else str(config)
    return (
        f"{where}: no mistakes; sessions: {len(settings.session)}, Service Bus namespaces: {len(settings.servicebus)}, "
        f"Fabric accounts: {len(settings.fabric)}, Azure accounts: {len(settings.azure)}, "
        f"gateways: {len(settings.gateway)}"
    )


def _mistakes(error: ConfigError) -> list[Finding]:
    return [
        Finding(
            "configuration",
            problem.key,
            Verdict.FAIL,
            f"{problem.where}: {problem.value}" if problem.value is not None else problem.where,
            problem.remedy,
        )
        for problem in error.problems
    ]


def _print(findings: list[Finding], output: Literal["table", "json"]) -> None:
    if output == "json":
        print_document(findings)
    else:
        print_findings(findings)
    sys.stdout.flush()
