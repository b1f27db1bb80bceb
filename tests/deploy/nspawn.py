"""A machine of our own to run units on: a real systemd, PID 1 of a container over an overlay of our own root.

What is written in there goes to memory, and is gone with it. Its network is its own, with nothing but loopback.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.cgroups import group_of_its_own, is_unified, was_out_of_memory, why_no_limits

_BOOT_S = 60.0
_COMMAND_S = 60.0
_LOOK_AGAIN_S = 0.05


def why_not() -> str | None:
    """Why there can be no such machine here; None where there can."""
    if os.geteuid() != 0:
        return "needs root, to boot a systemd of its own"
    missing = [tool for tool in ("systemd-nspawn", "nsenter", "mount") if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)}: deploy/install-test-tools.sh installs it"
    if not Path("/usr/bin/python3").exists():
        return "needs the distribution's own /usr/bin/python3"
    return None


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str


class Machine:
    """A machine that has booted."""

    def __init__(self, root: Path, leader: int, name: str, *, no_limits: str | None) -> None:
        self.root = root
        self.leader = leader
        self._name = name
        self.no_limits = no_limits
        """Why limits that a unit sets are not kept to in there; None where they are."""

    def run(self, *command: str | Path, check: bool = True, stdin: str | None = None) -> Done:
        """Run a command in there as root, without a shell."""
        ended = subprocess.run(
            self._entered(command),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
            cwd="/",
        )
        if check:
            assert ended.returncode == 0, f"{command}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return Done(ended.returncode, ended.stdout.strip(), ended.stderr.strip())

    def run_as(self, user: str, *command: str | Path, check: bool = True) -> Done:
        """Run a command in there as somebody, with the groups that they have."""
        return self.run("runuser", "-u", user, "--", *command, check=check)

    def path(self, inside: str | Path) -> Path:
        """A path in there, as this process finds it: with what is mounted in there."""
        return Path(f"/proc/{self.leader}/root", str(inside).lstrip("/"))

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        lines = self.run("systemctl", "show", unit, *(f"-p{name}" for name in names)).out.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def journal(self, unit: str, *, since: str = "") -> str:
        """What a unit and its manager said; after a cursor of `cursor`, where one is given."""
        after = [f"--after-cursor={since}"] if since else []
        return self.run("journalctl", "-u", unit, "--no-pager", "-o", "cat", *after).out

    def cursor(self) -> str:
        """Where the journal ends now."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "-n0", "--show-cursor").out.rpartition("cursor: ")[2]

    def was_out_of_memory(self, unit: str, command: str) -> bool:
        """Whether the kernel, for want of memory, has ended a process of that name in the unit."""
        return was_out_of_memory(rf"{self._name}\S*/{re.escape(unit)}", command)

    def _entered(self, command: Sequence[str | Path]) -> list[str]:
        return ["nsenter", "-t", str(self.leader), "-a", "--", "env", "-i", _PATH, "LANG=C.UTF-8", *map(str, command)]


_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@contextmanager
def booted(prepare: Callable[[Path], None]) -> Iterator[Machine]:
    """Boot a machine whose files `prepare` has changed; everything is taken down again in the end."""
    with ExitStack() as undo:
        folder = Path(tempfile.mkdtemp(prefix="renewer-nspawn-"))
        undo.callback(os.rmdir, folder)
        _mounted(undo, folder, "-t", "tmpfs", "tmpfs")
        for name in ("upper", "work", "root"):
            (folder / name).mkdir()
        root = folder / "root"
        layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
        _mounted(undo, root, "-t", "overlay", "overlay", "-o", layers)
        (root / "etc/machine-id").write_text(uuid.uuid4().hex + "\n")
        prepare(root)
        name = f"renewer-{uuid.uuid4().hex[:8]}"
        groups = undo.enter_context(group_of_its_own(name))
        leader = undo.enter_context(_systemd(root, name, groups, folder / "console.log"))
        machine = Machine(root, leader, name, no_limits=why_no_limits())
        if machine.no_limits is None and not is_unified():
            _hand_over_limits(machine)
        yield machine


def until(true: Callable[[], object], *, within_s: float = 30.0, what: Callable[[], object] = lambda: "") -> None:
    """Ask until it is true: what a service manager does cannot be waited for in another way."""
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, f"not within {within_s} s; {what()}"
        time.sleep(_LOOK_AGAIN_S)


def _mounted(undo: ExitStack, where: Path, *arguments: str) -> None:
    subprocess.run(["mount", *arguments, str(where)], check=True)
    undo.callback(subprocess.run, ["umount", "-l", str(where)], check=False)


def _hand_over_limits(machine: Machine) -> None:
    # Of version 1 a container sees the controllers read-only, and its manager looks for them once, when it begins.
    machine.run("mount", "-o", "remount,bind,rw", "/sys/fs/cgroup/memory")
    machine.run("systemctl", "daemon-reexec")
    machine.run("systemctl", "is-system-running", "--wait", check=False)


@contextmanager
def _systemd(root: Path, name: str, groups: Sequence[Path], console: Path) -> Iterator[int]:
    enter = "".join(f"echo $$ > {group}/cgroup.procs; " for group in groups)
    command: Sequence[str] = (
        *("sh", "-ec", f'{enter}exec "$@"', "sh"),
        *("systemd-nspawn", "--quiet", "-D", str(root), "--boot", "--register=no", "--keep-unit", "--link-journal=no"),
        *("-M", name, "--console=pipe", "--kill-signal=SIGRTMIN+3", "--private-network"),
        *("--resolv-conf=off", "--timezone=off", "systemd.unit=basic.target", "systemd.log_target=journal"),
    )
    with console.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield _boot(process, console)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _boot(process: subprocess.Popen[bytes], console: Path) -> int:
    end = time.monotonic() + _BOOT_S
    while time.monotonic() < end:
        assert process.poll() is None, console.read_text(errors="replace")
        with contextlib.suppress(OSError, IndexError, ValueError):
            leader = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[-1])
            entered = ["nsenter", "-t", str(leader), "-a", "--", "systemctl", "is-system-running", "--wait"]
            state = subprocess.run(entered, capture_output=True, text=True, timeout=_BOOT_S, check=False).stdout.strip()
            if state in ("running", "degraded"):
                return leader
        time.sleep(_LOOK_AGAIN_S)
    raise AssertionError(f"the machine did not boot:\n{console.read_text(errors='replace')}")
