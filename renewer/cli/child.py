"""A command in a process group of its own, with the terminal where there is one.

It is forked early, while this process has no thread yet, and waits for `start`. As a shell does, we hand the terminal
to its group, and when it is stopped from there (Ctrl-Z) we stop with it, so that the shell above notices.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import stat
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from renewer.cli.exitcodes import CommandError, ExitCode
from renewer.cli.output import printable

_PR_SET_PDEATHSIG = 1
_TURNED_OFF_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_TERMINAL_STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Ended:
    """The command has ended with this code; `by_signal` adds 128 as shells do."""

    code: int
    by_signal: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    """The command was stopped, not ended, by this signal."""

    number: int


class Child:
    """One command, from fork to end. Use it from the main thread alone."""

    def __init__(self, pid: int, argv: Sequence[str], go: int, failure: int) -> None:
        self.pid = pid
        self._argv = argv
        self._go = go
        self._failure = failure
        self._running = True
        self._tty = _open_terminal()
        self._modes = _modes_of(self._tty)
        self._foreground = self._is_ours() and sys.stdin.isatty() and not _is_pipe(1)

    @classmethod
    def fork(cls, argv: Sequence[str]) -> Child:
        """Fork the process that will become the command."""
        sys.stdout.flush()
        sys.stderr.flush()
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        go_reads, go_writes = os.pipe()
        failure_reads, failure_writes = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            # From here on nothing may return into the code above.
            try:
                os.close(go_writes)
                os.close(failure_reads)
                _become(argv, go_reads, failure_writes, libc, parent)
            finally:
                os._exit(ExitCode.COMMAND_NOT_FOUND)
        os.close(go_reads)
        os.close(failure_writes)
        return cls(pid, argv, go_writes, failure_reads)

    def start(self, environ: Mapping[str, str]) -> None:
        """Let it become the command. Raises `CommandError` with 127 if there is none, 126 if it cannot be executed."""
        # To take or to give the terminal from the background would stop us otherwise.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        # Here and in the child: whoever comes first, nobody signals a group that is not there yet.
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)
        order = json.dumps({"environ": dict(environ), "tty": self._tty if self._foreground else None})
        with os.fdopen(self._go, "wb") as go:
            go.write(order.encode("utf-8", "surrogateescape"))
        with os.fdopen(self._failure, "rb") as failure:
            why = failure.read()
        if not why:
            return
        os.waitpid(self.pid, 0)
        self._running = False
        self._take_terminal()
        number = int(why)
        missing = number in (errno.ENOENT, errno.ENOTDIR)
        raise CommandError(
            f"{printable(self._argv[0])}: {'command not found' if missing else os.strerror(number)}",
            ExitCode.COMMAND_NOT_FOUND if missing else ExitCode.NOT_EXECUTABLE,
        )

    def abandon(self) -> None:
        """Let it end without having become anything, if it was not started."""
        if self._running:
            with contextlib.suppress(OSError):
                os.close(self._go)
                os.close(self._failure)
            os.waitpid(self.pid, 0)
            self._running = False

    def send(self, number: int) -> None:
        """Signal the whole group; a group that has ended is no error."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def changes(self) -> list[Ended | Stopped]:
        """What has become of it since it was last asked."""
        found: list[Ended | Stopped] = []
        while self._running:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if not pid:
                break
            if os.WIFSTOPPED(status):
                found.append(Stopped(os.WSTOPSIG(status)))
                continue
            self._running = False
            self._take_terminal()
            if os.WIFSIGNALED(status):
                self._restore_modes()
                found.append(Ended(ExitCode.SIGNALLED + os.WTERMSIG(status), by_signal=True))
            else:
                found.append(Ended(os.WEXITSTATUS(status)))
        return found

    def follow_stop(self, number: int) -> None:
        """The command was stopped: give it the terminal if that is what it wants, or stop as well until continued."""
        if number not in _TERMINAL_STOPS:
            return
        if number != signal.SIGTSTP and self._is_ours():
            self._foreground = True
        else:
            self._take_terminal()
            before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.killpg(os.getpgrp(), signal.SIGTSTP)
            # We were stopped here, unless there is no shell that could continue us.
            signal.signal(signal.SIGTSTP, before)
        self.resume()

    def resume(self) -> None:
        """Continue the command, in the foreground if we are there."""
        if not self._running:
            return
        if self._foreground and self._is_ours():
            self._give_terminal(self.pid)
        self.send(signal.SIGCONT)

    def end_group(self, until: float) -> None:
        """Give what the command left behind in its group until then (monotonic), and kill the rest."""
        while time.monotonic() < until:
            try:
                os.killpg(self.pid, 0)
            except OSError:
                return
            time.sleep(_LOOK_S)
        self.send(signal.SIGKILL)

    def _is_ours(self) -> bool:
        if self._tty is None:
            return False
        try:
            return os.tcgetpgrp(self._tty) == os.getpgrp()
        except OSError:
            return False

    def _give_terminal(self, group: int) -> None:
        if self._tty is not None:
            with contextlib.suppress(OSError):
                os.tcsetpgrp(self._tty, group)

    def _take_terminal(self) -> None:
        if self._tty is not None:
            with contextlib.suppress(OSError):
                if os.tcgetpgrp(self._tty) == self.pid:
                    os.tcsetpgrp(self._tty, os.getpgrp())

    def _restore_modes(self) -> None:
        """A command that was killed may have left the terminal without echo."""
        if self._tty is not None and self._modes is not None and self._is_ours():
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(self._tty, termios.TCSADRAIN, self._modes)


def _become(argv: Sequence[str], go: int, failure: int, libc: ctypes.CDLL | None, parent: int) -> None:
    """In the child: wait for the word, then become the command."""
    for number in (signal.SIGINT, *_TURNED_OFF_BY_PYTHON):
        if number != signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    if libc is not None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            return
    with os.fdopen(go, "rb") as reader:
        order = reader.read()
    if not order:
        return
    document = json.loads(order.decode("utf-8", "surrogateescape"))
    os.setpgid(0, 0)
    if document["tty"] is not None:
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            # Opened anew: the parent's came after the fork.
            tty = os.open("/dev/tty", os.O_RDWR)
            os.tcsetpgrp(tty, os.getpid())
            os.close(tty)
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], list(argv), document["environ"])  # noqa: S606 - what it is for
    except OSError as error:
        os.write(failure, str(error.errno).encode())


def _open_terminal() -> int | None:
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None


def _modes_of(tty: int | None) -> list[int | list[bytes | int]] | None:
    if tty is None:
        return None
    try:
        return termios.tcgetattr(tty)
    except (termios.error, OSError):
        return None


def _is_pipe(descriptor: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:
        return False
