"""`python -m benchmarks.pollservice`: a service whose operations are never done, and who measures how it is asked.

Every answer says "Running" and how long to wait. The service alone holds the clock: a poll is late by the time between
its arrival and the moment that the answer before it was sent, plus what that asked for.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from dataclasses import dataclass, field

RETRY_AFTER_S = 1
_BODY = b'{"status": "Running", "percentComplete": null, "error": null}'


@dataclass
class Book:
    """When each operation may be asked about again, and what was seen since the last look."""

    base_url: str = ""
    due_at: dict[str, float] = field(default_factory=dict)
    late_s: list[float] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def asked(self, id_: str, arrived_at: float) -> None:
        due_at = self.due_at.get(id_)
        if due_at is not None:
            self.late_s.append(arrived_at - due_at)

    def answering(self, id_: str) -> None:
        # Before it is sent: afterwards another process may have had its turn, and have read it long ago.
        self.due_at[id_] = time.monotonic() + RETRY_AFTER_S

    def look(self) -> bytes:
        now = time.monotonic()
        seen = {"seconds": now - self.since, "operations": len(self.due_at), "late_s": self.late_s}
        self.late_s, self.since = [], now
        return json.dumps(seen).encode()


class Connection(asyncio.Protocol):
    """As little HTTP/1.1 as the two sides under test speak."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.transport: asyncio.Transport | None = None
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        arrived_at = time.monotonic()
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            length = _content_length(head)
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            method, target, _ = head.split(b" ", 2)
            self.answer(method.decode(), target.decode(), arrived_at)

    def answer(self, method: str, target: str, arrived_at: float) -> None:
        assert self.transport is not None
        if target == "/seen":
            self.transport.write(_reply(200, self.book.look()))
        elif method == "POST":
            id_ = str(uuid.uuid4())
            place = f"{self.book.base_url}/v1/operations/{id_}"
            where = f"Operation-Location: {place}\r\nLocation: {place}\r\nx-ms-operation-id: {id_}\r\n"
            self.book.answering(id_)
            self.transport.write(_reply(202, _BODY, f"{where}Retry-After: {RETRY_AFTER_S}\r\n"))
        else:
            id_ = target.rpartition("/")[2]
            self.book.asked(id_, arrived_at)
            self.book.answering(id_)
            self.transport.write(_STILL_RUNNING)


def _reply(status: int, body: bytes, headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


_STILL_RUNNING = _reply(200, _BODY, f"Retry-After: {RETRY_AFTER_S}\r\n")


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.split(b"\r\n", 1)[0]) if found else 0


async def serve() -> None:
    """Serve until killed, after telling the port."""
    book = Book()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(book), "127.0.0.1", 0, backlog=4096)
    book.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    sys.stdout.write(f"{book.base_url}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
