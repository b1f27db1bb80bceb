"""Where log lines go must never hold anybody up."""

from __future__ import annotations

import io
import threading

import pytest

from renewer.observe import LogSink


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


class Stuck(io.StringIO):
    """Nobody reads what is written here, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.let_go.wait()
        return super().write(text)


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, Broken(), closed()])
def test_what_cannot_be_written_is_counted_and_raises_nothing(stream):
    sink = LogSink(stream)
    sink.write("one\n")
    sink.write("two\n")
    assert not sink.isatty()
    sink.close(timeout_s=60.0)
    assert sink.lost == 2


def test_everything_is_written_in_order_by_the_time_it_is_closed():
    stream = io.StringIO()
    sink = LogSink(stream)
    for number in range(1000):
        sink.write(f"{number}\n")
    sink.close(timeout_s=60.0)
    assert stream.getvalue().split() == [str(number) for number in range(1000)]
    assert sink.lost == 0


def test_a_reader_that_has_stopped_reading_holds_nobody_up():
    stream = Stuck()
    sink = LogSink(stream)
    sink.write("first\n")
    stream.entered.wait()
    for _ in range(20_000):
        sink.write("more\n")
    assert sink.lost == 10_000
    sink.close(timeout_s=0.0)
    stream.let_go.set()
