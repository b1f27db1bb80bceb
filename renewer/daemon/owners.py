"""Processes that own leases: noticed the moment they end, through their pidfd.

A process is known by its number and the kernel's start time, since numbers are used again. A daemon in a PID namespace
of its own, such as a container's, does not see the processes of others: owners there need another sign of life.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from renewer.core.effects import LeaseNews, TellLease, TellOperation
from renewer.core.events import Event, OwnerGone
from renewer.core.states import OwnerKind
from renewer.errors import UsageError

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus

    from renewer.core.model import LeaseId, Owner

_LOOK_AGAIN_S = 1.0
"""How often to look for a process where the kernel has no pidfd."""

_PROC = Path("/proc")
_STARTTIME = 19
"""proc(5): starttime is field 22 of /proc/PID/stat, the 20th after the name in parentheses."""


def identified(owner: Owner) -> Owner:
    """The owner with its process's start time, where we may see it. Raises `UsageError` if there is no such process."""
    if owner.kind is not OwnerKind.PID:
        return owner
    if owner.pid is None:
        raise UsageError("owner.pid: give the number of the process that owns the lease")
    started = _started(owner.pid)
    if started is None and not _is_hidden(owner.pid):
        raise UsageError(
            f"owner.pid: no process {owner.pid} can be seen from here; in another container or PID namespace use an "
            "owner of kind connection or heartbeat"
        )
    return replace(owner, pid_started=started)


class ProcessOwners:
    """A hook that watches the processes that own leases, and reports those that end."""

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._tasks: TaskGroup | None = None
        self._watched: dict[tuple[int, int | None], _Process] = {}

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for process in self._watched.values():
                tasks.start_soon(self._watch, process)
            task_status.started()
            await anyio.sleep_forever()

    def lease(self, news: TellLease) -> None:
        """Watch the owner of a new lease; let go of that of one that has ended."""
        owner = news.spec.owner
        if owner.kind is not OwnerKind.PID or owner.pid is None:
            return
        key = (owner.pid, owner.pid_started)
        if news.news in (LeaseNews.REGISTERED, LeaseNews.RESTORED):
            process = self._watched.get(key)
            if process is None:
                process = self._watched[key] = _Process(owner.pid, owner.pid_started)
                if self._tasks is not None:
                    self._tasks.start_soon(self._watch, process)
            process.leases.add(news.spec.id)
        elif (news.final or news.news is LeaseNews.FORGOTTEN) and key in self._watched:
            process = self._watched[key]
            process.leases.discard(news.spec.id)
            if not process.leases:
                del self._watched[key]
                process.scope.cancel()

    def renewed(self, news: Sequence[TellLease]) -> None:
        """Nothing is new about their owners."""

    def operation(self, news: TellOperation) -> None:
        """Operations have no owners: they run whether anybody waits for them or not."""

    async def _watch(self, process: _Process) -> None:
        with process.scope:
            await _ended(process.pid, process.started)
            self._watched.pop((process.pid, process.started), None)
            for lease_id in list(process.leases):
                self._post(OwnerGone(lease_id, f"process {process.pid} has ended"))


@dataclass(slots=True)
class _Process:
    pid: int
    started: int | None
    leases: set[LeaseId] = field(default_factory=set)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


async def _ended(pid: int, started: int | None) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:
        # No event to wait for: this kernel has no pidfd.
        while _started(pid) == started:  # noqa: ASYNC110
            await anyio.sleep(_LOOK_AGAIN_S)
        return
    try:
        # Looked up after the descriptor was had: from here on it can be no other process.
        if started is None or _started(pid) == started:
            await anyio.wait_readable(descriptor)
    finally:
        os.close(descriptor)


def _started(pid: int) -> int | None:
    """When the process was started, in ticks since boot; None if it is gone, or has ended and waits for its parent."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else int(fields[_STARTTIME])
    except (OSError, ValueError, IndexError):
        return None


def _is_hidden(pid: int) -> bool:
    """Whether it lives and belongs to somebody whose processes we may not see: ProtectProc=, or hidepid of proc(5)."""
    if (_PROC / str(pid)).exists():
        return False
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(descriptor)
