"""A small HTTP service on loopback, for tests that play the other side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Asked:
    """A request; `target` is its path with the query."""

    method: str
    target: str
    headers: Message


@dataclass(frozen=True)
class Reply:
    """An answer, sent with these headers and no others but its length."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: str = ""


@contextmanager
def serving(reply: Callable[[Asked], Reply]) -> Iterator[str]:
    """Answer every request with what `reply` says, each in a thread of its connection; gives the base URL."""
    server = _Server(("127.0.0.1", 0), _handler(reply))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, *_arguments: object) -> None:
        """A connection that ends in the middle of something is what some of this is about."""


def _handler(reply: Callable[[Asked], Reply]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            answer = reply(Asked(self.command, self.path, self.headers))
            content = answer.body.encode()
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_arguments: object) -> None:
            pass

    return Handler
