"""A conversation played to a transport, in virtual time: in pieces, with pauses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal
from unittest.mock import patch

import anyio

from renewer.amqp import AmqpTransport, Connection, ConnectionState, Event, stream
from tests.amqp.conversations import Application, Conversation, Told
from tests.targets.scripted_broker import MemoryStream
from tests.virtualtime import virtual


class FarEnd(MemoryStream):
    """The end of the peer."""

    def put(self, item: bytes) -> None:
        """Send it while nobody else gets to do anything."""
        self._send.send_nowait(item)


class Wire(MemoryStream):
    """The end that is under test. What it sends waits until the other end takes it."""

    connection: Connection
    on_send: Callable[[int], None]
    backlog = 0
    """The most that waited to be sent while it was read from."""

    @classmethod
    def between(cls) -> tuple[Wire, FarEnd]:
        to_peer, at_peer = anyio.create_memory_object_stream[bytes](0)
        to_us, at_us = anyio.create_memory_object_stream[bytes](1_000_000)
        return cls(to_peer, at_us), FarEnd(to_us, at_peer)

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        self.backlog = max(self.backlog, self.connection.output_size)
        await anyio.lowlevel.checkpoint()
        return await super().receive(max_bytes)

    async def send(self, item: bytes) -> None:
        self.on_send(len(item))
        await super().send(item)


Ending = Literal["eof", "cut", "stays"]


@dataclass
class Play:
    """How bytes are brought to a transport, and what was seen of it."""

    conversation: Conversation
    random: Random
    ending: Ending = "eof"
    piece_size: int = 4_096
    read_size: int = 65_536
    max_backlog: int = 1 << 24
    blocks: bool = False
    """Whether nothing is taken of what is sent until all of a turn was brought."""
    on_event: Callable[[Event], None] | None = None
    connection: Connection = field(init=False)
    told: list[Told] = field(default_factory=list)
    output: bytes = b""
    backlog: int = 0
    """The most that waited to be sent while it was read from."""
    rest: int = 0
    """How many bytes were kept for frames that are not complete, at the most."""
    is_over: bool = False
    done: list[tuple[Literal["in", "out"], int]] = field(default_factory=list)
    """How much was taken in and sent, in its order, in the last turn."""

    def run(self, backend: str) -> Play:
        name, options = virtual(backend)
        with (
            patch.object(stream, "PIECE_SIZE", self.piece_size),
            patch.object(stream, "READ_SIZE", self.read_size),
            patch.object(stream, "MAX_BACKLOG", self.max_backlog),
        ):
            anyio.run(self._run, backend=name, backend_options=options)
        return self

    async def _run(self) -> None:
        side = self.conversation.side
        self.connection = connection = side.connection()
        take_in = connection.receive

        def receive(data: bytes, now: float) -> list[Event]:
            self.done.append(("in", len(data)))
            return take_in(data, now)

        connection.receive = receive  # type: ignore[method-assign,assignment]
        ours, theirs = Wire.between()
        ours.connection = connection
        ours.on_send = lambda size: self.done.append(("out", size))
        over = anyio.Event()
        transport = AmqpTransport(ours, connection)
        application = Application(connection, side.window)
        self.told = application.told

        def on_event(event: Event) -> None:
            assert not self.is_over
            application(event)
            self.rest = max(self.rest, len(connection._reader))
            if self.on_event is not None:
                self.on_event(event)

        async def run() -> None:
            try:
                await transport.run(on_event)
            finally:
                self.is_over = True
                over.set()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                for turn in self.conversation.turns:
                    await self._bring(theirs, turn)
                if self.ending == "eof":
                    await theirs.send_eof()
                elif self.ending == "cut":
                    theirs.cut()
                if self.ending != "cut":
                    await self._take(theirs)
                if self.ending != "stays" or connection.state is ConnectionState.CLOSED:
                    with anyio.fail_after(3 * stream.FAREWELL_S):
                        await over.wait()
                tasks.cancel_scope.cancel()
        finally:
            ours.cut()
            theirs.cut()
            self.backlog = ours.backlog

    async def _bring(self, theirs: FarEnd, turn: bytes) -> None:
        """A turn in pieces, and what is answered to it."""
        self.done.clear()
        random = self.random
        is_last = turn is self.conversation.turns[-1] and self.ending == "cut"
        pause_for = random.choice((0.0, 0.0, 0.3, 1.0))
        at_once = random.random() if is_last else 1.0
        for piece in pieces(random, turn):
            try:
                if random.random() > at_once:
                    theirs.put(piece)
                    continue
                await theirs.send(piece)
            except anyio.BrokenResourceError:
                return  # It has hung up.
            if pause_for and random.random() < pause_for:
                await random.choice((anyio.lowlevel.checkpoint, _quiet))()
                if not self.blocks and random.random() < 0.5:
                    await self._take(theirs)
        if not is_last or random.random() < 0.5:
            await _quiet()
        if not is_last:
            await self._take(theirs)

    async def _take(self, theirs: FarEnd) -> None:
        """All that is said until nothing more is."""
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, TimeoutError):
            while True:
                with anyio.fail_after(0.001):
                    self.output += await theirs.receive()


class Uncut(Random):
    """With it nothing is cut."""

    def choice(self, seq: Any) -> Any:
        return seq[0]


def pieces(random: Random, data: bytes) -> Iterator[bytes]:
    """All of it: as one, in single bytes if they are not too many, or cut anywhere."""
    cuts = random.choice((0, 1, 3, 20, 200))
    ends = range(1, len(data)) if len(data) < cuts else sorted(random.choices(range(1, len(data) + 1), k=cuts))
    for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
        if start < end:
            yield data[start:end]


async def _quiet() -> None:
    """Until nothing moves any more: in virtual time only then any passes."""
    await anyio.sleep(0.000_001)
