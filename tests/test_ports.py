"""The ports that other tests ask for."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests import ports
from tests.ports import free_port, free_ports


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the system says it gives."""
    file = tmp_path / "ip_local_port_range"
    file.write_text("32768\t60999\n")
    monkeypatch.setattr(ports, "GIVEN", file)
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    return file


def test_no_two_are_the_same_and_somebody_else_s_is_left_out(given: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        taken = listener.getsockname()[1]
        once, again = free_ports(ports.SHARE // 2), free_ports(ports.SHARE // 2)
    assert len(set(once)) == len(once)
    assert taken not in once + again


def test_they_lie_below_what_the_system_gives_and_each_process_has_its_own(
    given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 32768 - ports.SHARE <= free_port() < 32768
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw3")
    assert 32768 - 4 * ports.SHARE <= free_port() < 32768 - 3 * ports.SHARE


def test_without_proc_they_lie_below_the_usual_range(given: Path) -> None:
    given.unlink()
    assert 49152 - ports.SHARE <= free_port() < 49152


def test_where_the_system_gives_nearly_all_one_of_those_will_do(given: Path) -> None:
    given.write_text("1024\t65535\n")
    assert len(set(free_ports(20))) == 20


def test_when_all_of_ours_are_taken_one_that_the_system_gives_will_do(
    given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "SHARE", 1)
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        assert free_port() != taken.getsockname()[1]
