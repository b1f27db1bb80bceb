"""`renewer exec` as a process: what the command sees, how it is stopped, what becomes of terminals and signals."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.client.standin import StandIn

COMMAND = [sys.executable, "-m", "renewer"]
LIMIT_S = 60
READY = 'echo "ready $$"; exec sleep 100'


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[StandIn]:
    standin = StandIn(tmp_path / "s").start()
    try:
        yield standin
    finally:
        standin.kill()


@contextmanager
def holding(daemon: StandIn, *arguments: str, **pipes: int) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, "exec", "--api", daemon.api, "--entity", "orders", "--session", "s", *arguments]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def ends(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, err


def ready(process: subprocess.Popen[str]) -> int:
    """Wait for a command's first line; returns the id of its process."""
    assert process.stdout is not None
    word, pid = process.stdout.readline().split()
    assert word == "ready"
    return int(pid)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, or is only waiting for somebody to ask how."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def wait_gone(pid: int) -> None:
    end = time.monotonic() + LIMIT_S
    while not is_gone(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_command_runs_while_the_session_is_held_and_knows_which(daemon: StandIn) -> None:
    script = 'echo "$RENEWER_LEASE $RENEWER_ENTITY $RENEWER_SESSION_ID $RENEWER_EPOCH $RENEWER_API"; exit 7'
    with holding(daemon, "--", "sh", "-c", script) as process:
        code, out, err = ends(process)
    assert (code, out.split(), err) == (7, ["lease-1", "orders", "s", "1", daemon.api], "")
    lease = daemon.only_lease()
    assert (lease["state"], lease["owner"]["kind"]) == ("released", "connection")


def test_stdin_reaches_the_command_and_what_it_writes_is_untouched(daemon: StandIn) -> None:
    with holding(daemon, "--", "cat", stdin=subprocess.PIPE) as process:
        out, _ = process.communicate("one\ntwo\n", timeout=LIMIT_S)
    assert (process.returncode, out) == (0, "one\ntwo\n")


@pytest.mark.parametrize(
    ("command", "code"),
    [(["sh", "-c", "kill -9 $$"], 137), (["no-such-command"], 127), (["/etc/passwd"], 126), (["/etc/passwd/x"], 127)],
)
def test_the_exit_code_is_that_of_the_command_as_shells_tell_it(daemon: StandIn, command: list[str], code: int) -> None:
    with holding(daemon, "--", *command) as process:
        assert ends(process)[0] == code
    assert daemon.only_lease()["state"] == "released"


def test_a_session_that_is_not_had_in_time_is_75_and_nothing_runs(daemon: StandIn, tmp_path: Path) -> None:
    daemon.grants = False
    with holding(daemon, "--wait", "100ms", "--", "touch", str(tmp_path / "ran")) as process:
        code, _, err = ends(process)
    assert code == 75
    assert "--wait" in err
    assert not (tmp_path / "ran").exists()


def test_a_lost_lock_stops_the_command_and_is_told_by_an_exit_code_of_its_own(daemon: StandIn) -> None:
    with holding(daemon, "--", "sh", "-c", READY) as process:
        pid = ready(process)
        daemon.tell("lease-1", "lease.lost", reason="detached", detail="the link was detached")
        code, _, err = ends(process)
    assert code == 76
    assert "the lock is lost (detached: the link was detached): stopping sh" in err
    assert is_gone(pid)


def test_a_lock_at_risk_is_enough_and_the_command_may_end_in_good_order(daemon: StandIn) -> None:
    script = 'trap "echo cleaned up; exit 0" TERM; echo "ready $$"; while :; do sleep 0.05; done'
    with holding(daemon, "--", "sh", "-c", script) as process:
        ready(process)
        daemon.tell("lease-1", "lease.at_risk")
        code, out, err = ends(process)
    assert (code, out) == (76, "cleaned up\n")
    assert "the lock may be lost" in err
    assert daemon.only_lease()["state"] == "released"


def test_who_does_not_end_in_time_is_killed_with_all_that_it_started(daemon: StandIn) -> None:
    script = "trap '' TERM; sleep 100 & echo \"ready $!\"; wait; wait; wait"
    with holding(daemon, "--grace", "200ms", "--", "sh", "-c", script) as process:
        grandchild = ready(process)
        daemon.tell("lease-1", "lease.lost", reason="expired")
        code, _, err = ends(process)
    assert code == 76
    assert "killed" in err
    wait_gone(grandchild)


def test_with_warn_the_command_goes_on(daemon: StandIn) -> None:
    script = 'echo "ready $$"; read line; echo "$line"'
    with holding(daemon, "--on-lost", "warn", "--", "sh", "-c", script, stdin=subprocess.PIPE) as process:
        ready(process)
        daemon.tell("lease-1", "lease.lost", reason="detached")
        assert process.stderr is not None
        assert "the command goes on" in process.stderr.readline()
        out, _ = process.communicate("still here\n", timeout=LIMIT_S)
    assert (process.returncode, out) == (0, "still here\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
def test_signals_are_passed_on(daemon: StandIn, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f'trap "echo got {name}; exit 3" {name}; echo "ready $$"; while :; do sleep 0.05; done'
    with holding(daemon, "--", "sh", "-c", script) as process:
        ready(process)
        process.send_signal(number)
        code, out, _ = ends(process)
    assert (code, out) == (3, f"got {name}\n")


def test_a_signal_while_the_session_is_waited_for_gives_up(daemon: StandIn, tmp_path: Path) -> None:
    daemon.grants = False
    with holding(daemon, "--", "touch", str(tmp_path / "ran")) as process:
        daemon.until(lambda: daemon.owners.get("lease-1") == 1)
        process.send_signal(signal.SIGTERM)
        assert ends(process)[0] == 143
    daemon.until(lambda: daemon.owners["lease-1"] == 0)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_when_exec_itself_is_killed_its_connection_ends_and_the_command_too(daemon: StandIn) -> None:
    with holding(daemon, "--", "sh", "-c", READY) as process:
        pid = ready(process)
        process.kill()
        wait_gone(pid)
    daemon.until(lambda: daemon.owners["lease-1"] == 0)


def test_a_session_held_with_watch_ends_with_its_loss(daemon: StandIn) -> None:
    command = [*COMMAND, "lease", "hold", "orders", "--session", "s", "--watch", "--api", daemon.api]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert "snapshot" in process.stdout.readline()
        daemon.tell("lease-1", "lease.renewed", margin_s=5.0)
        assert "margin 5.0 s" in process.stdout.readline()
        daemon.tell("lease-1", "lease.lost", reason="detached")
        code, out, _ = ends(process)
    assert code == 1
    assert "detached  for good" in out


def test_a_session_held_with_watch_is_given_back_when_the_command_is_stopped(daemon: StandIn) -> None:
    command = [*COMMAND, "lease", "hold", "orders", "--session", "s", "--watch", "--api", daemon.api]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert "snapshot" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert ends(process)[0] == 143
    assert daemon.only_lease()["state"] == "released"


class Terminal:
    """A shell-less terminal session: `renewer exec` leads it and has it in the foreground."""

    def __init__(self, daemon: StandIn, *command: str) -> None:
        arguments = [*COMMAND, "exec", "--api", daemon.api, "--entity", "orders", "--session", "s", "--", *command]
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execv(arguments[0], arguments)
        self.seen = b""

    def write(self, text: bytes) -> None:
        os.write(self.descriptor, text)

    def read_until(self, text: bytes) -> None:
        end = time.monotonic() + LIMIT_S
        while text not in self.seen:
            readable, _, _ = select.select([self.descriptor], [], [], max(0, end - time.monotonic()))
            assert readable, self.seen
            try:
                self.seen += os.read(self.descriptor, 4096)
            except OSError as error:
                raise AssertionError(self.seen) from error

    def ends(self) -> int:
        # What is left unread would keep the last writer waiting.
        while select.select([self.descriptor], [], [], LIMIT_S)[0]:
            try:
                if not os.read(self.descriptor, 4096):
                    break
            except OSError:
                break
        _, status = os.waitpid(self.pid, 0)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(status)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_on_a_terminal_the_command_reads_what_is_typed_and_ctrl_c_is_its_own(daemon: StandIn) -> None:
    script = 'trap "echo interrupted; exit 5" INT; read line; echo "got $line"; while :; do sleep 0.05; done'
    terminal = Terminal(daemon, "sh", "-c", script)
    terminal.write(b"typed\n")
    terminal.read_until(b"got typed")
    terminal.write(b"\x03")
    terminal.read_until(b"interrupted")
    assert terminal.ends() == 5


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_stop_from_the_terminal_without_a_shell_above_is_continued(daemon: StandIn) -> None:
    # The session's leader has nobody who could continue it, so that its stop does not happen.
    terminal = Terminal(daemon, "sh", "-c", 'echo ready; read line; echo "got $line"')
    terminal.read_until(b"ready")
    terminal.write(b"\x1a")
    terminal.write(b"typed\n")
    terminal.read_until(b"got typed")
    assert terminal.ends() == 0
