"""What the service manager hears, over a real datagram socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from renewer.daemon.systemd import Notifier


class Manager:
    """A service manager's socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.socket.close()


@pytest.fixture
def notifier(manager: Manager, tmp_path: Path) -> Iterator[Notifier]:
    made = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}, monotonic=lambda: 12.5)
    yield made
    made.close()


def test_every_stage_of_a_life_is_told(manager: Manager, notifier: Notifier) -> None:
    notifier.extend_timeout(90)
    notifier.ready("3 leases held")
    notifier.watchdog()
    notifier.reloading()
    notifier.ready()
    notifier.status("4 leases held")
    notifier.stopping("giving 4 leases back", takes_s=12.5)
    assert manager.heard() == [
        "EXTEND_TIMEOUT_USEC=90000000",
        "READY=1\nSTATUS=3 leases held",
        "WATCHDOG=1",
        "RELOADING=1\nMONOTONIC_USEC=12500000",
        "READY=1",
        "STATUS=4 leases held",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=12500000\nSTATUS=giving 4 leases back",
    ]


def test_an_abstract_socket_is_found() -> None:
    name = f"renewer-test-{id(object())}"
    manager = Manager(f"\0{name}")
    with manager.socket:
        notifier = Notifier({"NOTIFY_SOCKET": f"@{name}"})
        notifier.ready()
        assert manager.heard() == ["READY=1"]
        notifier.close()


def test_the_variables_are_taken_out_so_that_no_child_sees_them(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2", "PATH": "/bin"}
    Notifier(environ).close()
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize("where", [None, "", "@", "relative", "vsock:2:1234"])
def test_without_a_socket_that_can_be_spoken_to_nothing_happens(where: str | None) -> None:
    environ = {"WATCHDOG_USEC": "1000000"} | ({} if where is None else {"NOTIFY_SOCKET": where})
    notifier = Notifier(environ)
    assert not notifier.is_heard
    assert notifier.watchdog_s is None
    notifier.ready("ready")
    notifier.watchdog()
    notifier.stopping(takes_s=1)
    notifier.flush()
    notifier.close()


def test_a_line_break_in_a_status_begins_no_assignment(manager: Manager, notifier: Notifier) -> None:
    notifier.status("one\nREADY=1\x00\ttwo")
    notifier.status("")
    assert manager.heard() == ["STATUS=one READY=1 two"]


def test_a_manager_that_does_not_listen_holds_nobody_up_and_hears_it_later(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.ready("up")
    notifier.watchdog()
    notifier.status("one")
    notifier.status("two")
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket:
        notifier.watchdog()
        assert manager.heard() == ["READY=1\nSTATUS=up", "STATUS=two", "WATCHDOG=1"]
        notifier.close()


def test_a_full_socket_blocks_nobody_and_loses_no_stage(manager: Manager, notifier: Notifier) -> None:
    for number in range(10_000):
        notifier.watchdog()
        if number > 1000 and not number % 100:
            notifier.status(f"number {number}")
    notifier.reloading()
    notifier.ready()
    heard = []
    while new := manager.heard():
        heard += new
        notifier.flush()
    assert heard[-2:] == ["RELOADING=1\nMONOTONIC_USEC=12500000", "READY=1"]
    assert len(heard) < 10_000


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": "77"}, None),
    ],
)
def test_the_watchdog_is_ours_only_if_it_names_us(environ: dict[str, str], watchdog_s: float | None) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "/run/none", **environ}, pid=77)
    assert notifier.watchdog_s == watchdog_s
    notifier.close()
