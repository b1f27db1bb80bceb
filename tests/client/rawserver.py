"""A server on a TCP port that answers each connection as its script says, or hangs up instead."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

LIMIT_S = 20


class RawServer:
    """Each item of the script is one request: bytes to answer with, or None to hang up after it was read."""

    def __init__(self, script: Sequence[bytes | None]) -> None:
        self.requests: list[bytes] = []
        self._script = list(script)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> RawServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(LIMIT_S)
        self._listener.close()

    def _run(self) -> None:
        self._listener.settimeout(LIMIT_S)
        for answer in self._script:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(LIMIT_S)
                self.requests.append(self._read(connection))
                if answer is not None:
                    connection.sendall(answer)

    def _read(self, connection: socket.socket) -> bytes:
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65_536)
        head, _, body = received.partition(b"\r\n\r\n")
        size = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        while len(body) < size:
            body += connection.recv(65_536)
        return head + b"\r\n\r\n" + body


def answer(status: int, body: bytes, content_type: str = "application/json", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{extra}"
    return f"{head}Connection: close\r\n\r\n".encode() + body
