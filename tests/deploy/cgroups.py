"""Control groups that a test makes: for a machine of its own, whose limits are to bite; and what tools leave behind."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

TAKE_ALL_MEMORY = """
import os, signal

for _ in range(40):
    if not os.fork():
        eaten = b"x" * (8 * 1024 * 1024)
        signal.pause()
"""
"""A program that leaves processes behind, so small that the kernel, when memory runs out, ends somebody larger."""

_TOP = Path("/sys/fs/cgroup")


def is_unified() -> bool:
    """Whether all controllers share one hierarchy (version 2)."""
    return (_TOP / "cgroup.controllers").exists()


def why_no_limits() -> str | None:
    """Why no memory limit can be set for a group of our own; None where one can."""
    if is_unified():
        given = (_TOP / "cgroup.subtree_control").read_text().split()
        return None if "memory" in given else f"{_TOP} hands the memory controller down to nobody"
    if "memory" not in _ours():
        return "the kernel has no memory controller, or none that is mounted"
    return None


@contextmanager
def group_of_its_own(name: str) -> Iterator[list[Path]]:
    """A new group in every hierarchy, for a machine whose manager is to set limits below it; removed in the end."""
    with ExitStack() as undo:
        made = []
        for parent in [_TOP] if is_unified() else _ours().values():
            group = parent / name
            group.mkdir()
            undo.callback(_remove, group)
            for needed in ("cpuset.cpus", "cpuset.mems"):
                # Version 1 lets nobody into a group that has none.
                if not is_unified() and (group / needed).exists():
                    (group / needed).write_text((parent / needed).read_text())
            made.append(group)
        yield made


def was_out_of_memory(group: str, command: str) -> bool:
    """Whether the kernel has ended a process of that name because a group with this in its path was out of memory."""
    told = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=60, check=True).stdout
    return re.search(rf"oom-kill:.*oom_memcg=\S*{group}\S*,.*task={command},", told) is not None


def sweep_cgroups(name: str) -> None:
    """Remove the groups of that name that a tool left at the top of each hierarchy, unless something runs in them."""
    for top in (_TOP / name, *_TOP.glob(f"*/{name}")):
        if top.is_dir():
            _remove(top)


def _ours() -> dict[str, Path]:
    """The group that this process is in, by hierarchy."""
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        group = _TOP / (controllers.removeprefix("name=") or "unified") / path.lstrip("/")
        if group.is_dir():
            found[controllers] = group
    return found


def _remove(top: Path) -> None:
    groups = [*sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True), top]
    with contextlib.suppress(OSError):
        if not any((group / "cgroup.procs").read_text().strip() for group in groups):
            for group in groups:
                group.rmdir()
