"""Signals that are heard at whatever moment they come.

Python runs a handler when the main thread next executes bytecode. A signal that comes just before that thread begins to
wait for a lock or a socket would be noticed when the wait is over, which may be never. So a thread of its own hears of
every signal (`signal.set_wakeup_fd` is served at once), and sees to it that something comes of it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import NoReturn

import typer

from renewer.cli.exitcodes import ExitCode

_INSIST_S = 0.05

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""The signals that end a command."""


class Signals:
    """What signals lead to, for the length of a block of the main thread.

    At first the main thread leaves when one of `leave_on` comes, by way of every `with` and `finally`; a second one
    ends the process at once. After `pass_on` signals are handed over instead. Those that were ignored stay ignored.
    """

    def __init__(self, leave_on: Sequence[signal.Signals]) -> None:
        self._leave_on = leave_on
        self._main = threading.main_thread().ident or 0
        self._receive: Callable[[int], object] | None = None
        self._left = False
        self._pokes = 0
        self._before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._reads, self._writes = socket.socketpair()
        self._writes.setblocking(False)
        self._thread = threading.Thread(target=self._listen, name="renewer-signals", daemon=True)

    def __enter__(self) -> Signals:
        self._wakeup_before = signal.set_wakeup_fd(self._writes.fileno(), warn_on_full_buffer=False)
        self._thread.start()
        self._handle(self._leave_on, self._leave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left = True
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._writes.close()
        self._thread.join()
        self._reads.close()

    def pass_on(self, numbers: Sequence[signal.Signals], receive: Callable[[int], object]) -> None:
        """From now on these are handed to `receive`, in another thread, and nobody leaves because of one."""
        self._receive = receive
        self._handle(numbers, _ignore)

    def _handle(self, numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], object]) -> None:
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before = signal.signal(number, handler)
                self._before.setdefault(number, before)

    def _leave(self, number: int, _frame: FrameType | None) -> None:
        if not self._left and self._receive is None:
            self._left = True
            _leave(number)

    def _listen(self) -> None:
        heard = 0
        while numbers := self._reads.recv(1):
            number = numbers[0]
            if self._receive is None and number in self._leave_on:
                heard += 1
                if heard - self._pokes > 1:
                    os._exit(ExitCode.SIGNALLED + number)
                self._insist(number)
            if self._receive is not None:
                self._receive(number)

    def _insist(self, number: int) -> None:
        """Interrupt the main thread until it has seen that it is to leave."""
        while True:
            time.sleep(_INSIST_S)
            if self._left or self._receive is not None:
                return
            self._pokes += 1
            signal.pthread_kill(self._main, number)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler of Python's own is what makes the system's word come to `Signals`."""


def _leave(number: int) -> NoReturn:
    raise typer.Exit(ExitCode.SIGNALLED + number)
