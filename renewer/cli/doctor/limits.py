"""What the system allows: open files, memory, and a clock that is kept right. Blocking calls, all of them quick."""

from __future__ import annotations

import contextlib
import ctypes
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from renewer.cli.doctor.findings import Outcome, ok, warn

if TYPE_CHECKING:
    from renewer.config import Settings

BASE_FILES: Final = 64
"""Open files of a daemon without work: listeners, log, registry, event loop, a few callers."""

MANY_OWNERS: Final = 1000
"""Few have more workers than that beside one daemon."""

BASE_MEMORY: Final = 128 * 1024**2
LEASE_MEMORY: Final = 16 * 1024
"""Measured: 5,000 sessions on one connection took 33 MiB, half of it for what is known of each; twice that is safe."""

REQUEST_MEMORY: Final = 1024**2
"""The largest answer about an operation that is read into memory; results go to disk as they arrive."""

_UNLIMITED: Final = 1 << 60
"""Bytes that no machine has."""

_MAX_DIGITS: Final = 20
_TIME_ERROR: Final = 5
"""What adjtimex(2) returns while the clock is not synchronised."""


def examine_files(settings: Settings, pid: int | None, *, proc: Path = Path("/proc")) -> Outcome[None]:
    """Whether enough files may be open, for process `pid` or else for one like ours."""
    whose, process = _whose(pid)
    text = (proc / process / "limits").read_text("ascii", "replace")
    match = re.search(r"^Max open files\s+(\d+|unlimited)", text, re.MULTILINE)
    if match is None:
        return ok("not known on this system")
    if match[1] == "unlimited":
        return ok(f"any number of open files allowed {whose}")
    limit, needed, leases = int(match[1]), files_needed(settings), settings.api.max_leases
    remedy = f"LimitNOFILE={_rounded_up(needed + leases)} in the systemd unit, or ulimit -n"
    seen = f"{limit} open files allowed {whose}"
    if limit < needed:
        return warn(f"{seen}, up to {needed} needed", remedy)
    # Each lease may have an owner that lives as long as its connection to us.
    room = limit - needed
    seen = f"{seen}, room for {min(room, leases)} owners that keep a connection open"
    return ok(seen) if room >= min(leases, MANY_OWNERS) else warn(seen, remedy)


def files_needed(settings: Settings) -> int:
    """Open files at the most, besides the connections of owners."""
    leases = settings.api.max_leases
    brokers = sum(
        max(2, math.ceil(leases / section.sessions_per_connection)) for section in settings.servicebus.values()
    )
    return BASE_FILES + brokers + sum(section.concurrency for _, section in settings.accounts())


def examine_memory(
    settings: Settings, pid: int | None, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> Outcome[None]:
    """Whether the control group leaves enough memory for as many leases, and requests at once, as are allowed."""
    whose, process = _whose(pid)
    limit = _memory_limit(proc / process / "cgroup", cgroups)
    if limit is None:
        return ok("not known on this system")
    if limit == math.inf:
        return ok(f"no limit {whose}")
    requests = sum(section.concurrency for _, section in settings.accounts())
    needed = BASE_MEMORY + settings.api.max_leases * LEASE_MEMORY + requests * REQUEST_MEMORY
    seen = f"{limit // 1024**2:.0f} MiB allowed {whose}, about {needed // 1024**2} MiB needed at most"
    if limit >= needed:
        return ok(seen)
    return warn(seen, "raise the memory limit, or lower api.max_leases, or concurrency of the accounts")


def examine_clock() -> Outcome[None]:
    """Whether the kernel counts its clock as synchronised (adjtimex(2), read only)."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(1024))
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        return ok("not known on this system")
    if state == _TIME_ERROR:
        return warn(
            "the kernel says that the clock is not synchronised",
            "run chrony or systemd-timesyncd (timedatectl set-ntp true); in a container, look at the host",
        )
    return ok("the kernel says that the clock is synchronised")


def _memory_limit(membership: Path, cgroups: Path) -> float | None:
    """The tightest limit from the process's control group up to the root, in bytes; inf for none, None if not known.

    Where version 1 minds the memory, as on older systems, there is a tree for that alone.
    """
    try:
        text = membership.read_text("utf-8", "replace")
    except OSError:
        return None
    groups: dict[str, str] = {}
    for kinds, path in re.findall(r"^[0-9]+:([^:\n]*):/(.*)$", text, re.MULTILINE):
        groups |= dict.fromkeys(kinds.split(","), path)
    is_first_version = "memory" in groups
    path = groups.get("memory" if is_first_version else "")
    if path is None or ".." in path.split("/"):
        return None
    root = cgroups / "memory" if is_first_version else cgroups
    name = "memory.limit_in_bytes" if is_first_version else "memory.max"
    # The root has no such file; in a container, what is its root may have one, and the path lead nowhere.
    limits: list[float | None] = [math.inf] if path == "" and root.is_dir() else []
    group = root / path
    while group.is_relative_to(root):
        with contextlib.suppress(OSError):
            limits.append(_limit((group / name).read_text("ascii", "replace").strip()))
        group = group.parent
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(text: str) -> float | None:
    """What one group allows, None if that cannot be read.

    For no limit version 2 says "max", and version 1 the most that its counter holds.
    """
    if text == "max":
        return math.inf
    if not (text.isascii() and text.isdecimal()):
        return None
    limit = int(text) if len(text) < _MAX_DIGITS else _UNLIMITED
    return limit if limit < _UNLIMITED else math.inf


def _whose(pid: int | None) -> tuple[str, str]:
    return ("for this shell", "self") if pid is None else ("for the daemon", str(pid))


def _rounded_up(number: int) -> int:
    return 1 << (number - 1).bit_length()
