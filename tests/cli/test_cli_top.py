"""The screen of `renewer top`, at any size, for any number of leases; and the command on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from renewer.cli.topview import Reading, draw
from renewer.client import Event, Gateway, Lease, Operation, Status
from tests.cli.conftest import Run
from tests.client.standin import StandIn

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIMIT_S = 60
SIZES = [(80, 24), (200, 60), (40, 10), (20, 5), (10, 2), (300, 100)]


def lease(number: int, state: str = "held", session_id: str | None = None) -> Lease:
    return Lease(
        id=f"lease-{number:016x}",
        state=state,
        entity="orders",
        session_id=session_id or f"customer-{number}",
        remaining_s=number + 0.5 if state == "held" else None,
        last_margin_s=14.2,
        renewals=12,
    )


def operation(number: int) -> Operation:
    return Operation(
        id=f"op-{number:016x}",
        state="running",
        account="fabric.main",
        status="Running",
        next_poll_at=NOW + timedelta(seconds=20),
        elapsed_s=3.0,
    )


def event(number: int) -> Event:
    data = {"entity": "orders", "session_id": f"customer-{number}", "reason": "detached"}
    return Event("lease.lost", f"lease-{number:016x}", f"1-{number}", NOW, data)


def reading(count: int, *, trouble: str | None = None) -> Reading:
    status = Status(
        state="ready",
        version="0.2.0",
        uptime_s=100,
        leases={"held": count} if count else {},
        operations={"running": count} if count else {},
        losses=count,
        min_margin_s=1.5,
        loop_lag_s=0.001,
        registry="sqlite",
        trouble=["servicebus.main: no connection"] if count else [],
    )
    shown = range(min(count, 100))
    return Reading(
        status,
        [lease(number) for number in shown],
        [operation(number) for number in shown],
        [event(number) for number in range(min(count, 50))],
        NOW,
        trouble,
    )


def drawn(shown: Reading, width: int, height: int) -> list[str]:
    return [line.plain for line in draw(shown, "unix:/run/renewer/renewer.sock", width, height)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("count", [0, 1, 10, 10_000])
def test_the_screen_is_never_larger_than_the_terminal(count: int, width: int, height: int) -> None:
    for shown in (reading(count), reading(count, trouble="gone"), Reading(), Reading(trouble="gone")):
        lines = drawn(shown, width, height)
        assert len(lines) <= height
        assert max(map(len, lines)) <= width


def test_ten_thousand_leases_are_readable_on_a_small_terminal() -> None:
    lines = drawn(reading(10_000), 80, 24)
    assert lines[0].startswith("renewer 0.2.0 ready  up 1 m 40 s")
    assert lines[1].split() == ["leases", "10,000", "held"]
    assert any(line == "! servicebus.main: no connection" for line in lines)
    (title,) = [line for line in lines if "nearest to expiry" in line]
    rows = [line for line in lines if "orders/customer-" in line and line.startswith("lease-")]
    assert title == f"Leases: the {len(rows)} of 10,000 nearest to expiry"
    assert len(rows) >= 5
    assert "in 500 ms" in rows[0]
    assert any(line.startswith("op-") for line in lines)
    assert lines[-2].split()[1:3] == ["lost", f"lease-{49:016x}"]
    assert "detached" in lines[-2]
    assert lines[-1] == "q leaves"


def test_columns_of_less_worth_give_way_before_the_session_is_cut() -> None:
    narrow = drawn(reading(10), 80, 24)
    wide = drawn(reading(10), 200, 60)
    assert not any("RENEWED" in line for line in narrow)
    assert any("RENEWED" in line for line in wide)


def test_each_gateway_has_a_line_with_what_goes_wrong_there() -> None:
    quiet = Gateway("main", "main", "127.0.0.1:5672", connections=1, messages=12)
    troubled = Gateway("east", "east", "127.0.0.1:5673", refusals={"bad_key": 2, "full": 1}, upstream_failures=4)
    status = replace(reading(1).status or Status("ready"), gateways=[quiet, troubled])
    told = [line for line in drawn(Reading(status, at=NOW), 120, 24) if line.startswith("gateway")]
    assert told == [
        "gateway     main at 127.0.0.1:5672  1 worker  12 messages passed",
        "gateway     east at 127.0.0.1:5673  0 workers  0 messages passed  4 upstream failures  3 refused",
    ]


def test_what_waits_for_its_quota_says_so_instead_of_a_time_that_has_passed() -> None:
    shown = reading(1)
    waits = replace(operation(7), limited_by="fabric.main jobs", next_poll_at=NOW - timedelta(seconds=90))
    (line,) = [line for line in drawn(replace(shown, operations=[waits]), 120, 24) if line.startswith("op-")]
    assert "quota" in line
    assert "ago" not in line


def test_without_leases_the_screen_says_how_to_get_one() -> None:
    assert any("renewer lease hold" in line for line in drawn(reading(0), 80, 24))


def test_a_daemon_that_does_not_answer_any_longer_is_told_above_what_it_said_last() -> None:
    lines = drawn(reading(3, trouble="connection refused"), 80, 24)
    assert lines[0].startswith("renewer 0.2.0 does not answer, since ")
    assert any(line.startswith("no answer for") and "connection refused" in line for line in lines)
    assert any("customer-1" in line for line in lines)


def test_session_ids_cannot_move_the_cursor() -> None:
    shown = Reading(reading(1).status, [lease(1, session_id="a\x1b[2J\nb")], at=NOW)
    assert not any("\x1b" in line or "\n" in line for line in drawn(shown, 200, 60))


def test_only_the_living_are_counted_by_the_title() -> None:
    shown = reading(3)
    assert shown.status is not None
    status = replace(shown.status, leases={"held": 3, "lost": 2, "released": 42})
    assert "Leases" in drawn(replace(shown, status=status), 80, 40)


def test_once_for_programs_is_one_document(run: Run, daemon: StandIn) -> None:
    run("lease", "hold", "orders", "--session", "s")
    daemon.add_operation("op-1")
    document = run("top", "--once", "-o", "json").json
    assert document["status"]["state"] == "ready"
    assert [lease["id"] for lease in document["leases"]] == ["lease-1"]
    assert [operation["id"] for operation in document["operations"]] == ["op-1"]


def test_operations_that_wait_for_a_quota_come_first_and_those_that_are_asked_about_last(
    run: Run, daemon: StandIn
) -> None:
    daemon.add_operation("op-1")
    daemon.add_operation("op-2", next_poll_at="2026-01-01T00:00:00Z")
    daemon.add_operation("op-3", limited_by="fabric.main jobs")
    operations = run("top", "--once", "-o", "json").json["operations"]
    assert [operation["id"] for operation in operations] == ["op-3", "op-2", "op-1"]


def test_once_prints_one_screen_and_asks_for_one_page_of_each(run: Run, daemon: StandIn) -> None:
    run("lease", "hold", "orders", "--session", "s")
    daemon.seen.clear()
    answer = run("top", "--once")
    assert answer.code == 0
    assert "orders/s" in answer.out
    assert [seen.path for seen in daemon.seen] == ["/v1/status", "/v1/leases", "/v1/operations"]
    assert ("sort", "remaining") in daemon.seen[1].query


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_on_a_terminal_it_shows_what_happens_until_a_key_ends_it(tmp_path: Path, daemon: StandIn, key: bytes) -> None:
    pid, descriptor = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-m", "renewer", "top", "--api", daemon.api])
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(descriptor)[3]
    seen = b""

    def read_until(text: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + LIMIT_S
        while text not in seen:
            assert select.select([descriptor], [], [], max(0, end - time.monotonic()))[0], seen
            seen += os.read(descriptor, 65_536)

    read_until(b"q leaves")
    read_until(b"ready")
    daemon.until(lambda: any(of.path == "/v1/events" for of in daemon.seen))
    os.write(descriptor, key)
    read_until(b"\x1b[?1049l")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert termios.tcgetattr(descriptor)[3] == before
    os.close(descriptor)
