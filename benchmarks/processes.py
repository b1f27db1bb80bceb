"""Processes that are measured, and what the kernel says of them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def module(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A module of Python as a process of its own, killed at the end."""
    with subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def first_line(running: subprocess.Popen[str]) -> str:
    """What the process says first."""
    assert running.stdout is not None
    return running.stdout.readline().strip()


def cpu_s(pid: int) -> float:
    """Processor time of all threads of a process, to the nanosecond."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def rss_mib(pid: int) -> float:
    """Resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def connections(pid: int) -> int:
    """Established TCP connections that a process has open to somebody."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(descriptor))
    established = "01"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(
        fields[3] == established and f"socket:[{fields[9]}]" in inodes for line in lines if (fields := line.split())
    )


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until_listening(port: int, timeout_s: float = 60.0) -> None:
    """Return once somebody accepts connections there. TimeoutError if nobody does."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError as error:
            if time.monotonic() > end:
                raise TimeoutError(f"nobody listens on port {port}") from error
            time.sleep(0.02)
        else:
            return
