"""A little Fabric, and a receiver of callbacks, that remember everything: they stay while the daemon comes and goes."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class _Operation:
    name: str
    retry_after_s: int
    polls_left: int
    not_before: float = 0.0


@dataclass
class Witness:
    """What was asked of the service, and what it was told."""

    dice: random.Random = field(default_factory=random.Random)
    submits: Counter[str] = field(default_factory=Counter)
    early_s: list[float] = field(default_factory=list)
    polls: int = 0
    operations: dict[str, _Operation] = field(default_factory=dict)
    called: defaultdict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    """Ids of events by subject and type."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, name: str) -> tuple[str, _Operation]:
        """Start an operation; its id is what a caller gets."""
        with self.lock:
            operation_id = f"{self.dice.getrandbits(128):032x}"
            operation_id = "-".join(operation_id[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
            operation = _Operation(name, self.dice.choice((1, 2)), self.dice.randrange(1, 5))
            operation.not_before = time.monotonic() + operation.retry_after_s
            self.operations[operation_id] = operation
            return operation_id, operation

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The service on a port of loopback."""
        server = _Server(("127.0.0.1", 0), _handler(self))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments: object) -> None:
        """A connection that ends in the middle of something is what this is about."""


def _handler(witness: Witness) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/called":
                with witness.lock:
                    witness.called[body["subject"], body["type"]].add(body["id"])
                # Now and then an acknowledgement is lost.
                self.answer(204 if witness.dice.random() < 0.8 else 503)
                return
            witness.submits[body["displayName"]] += 1
            operation_id, operation = witness.begin(body["displayName"])
            self.answer(202, headers=self.where(operation_id, operation))

        def do_GET(self) -> None:
            kind, _, rest = self.path.removeprefix("/v1/operations/").partition("/")
            operation = witness.operations[kind]
            if rest == "result":
                self.answer(200, {"name": operation.name})
                return
            with witness.lock:
                witness.polls += 1
                now = time.monotonic()
                if now < operation.not_before:
                    witness.early_s.append(operation.not_before - now)
                operation.polls_left -= 1
                operation.not_before = now + operation.retry_after_s
            if operation.polls_left > 0:
                self.answer(200, {"status": "Running"}, self.where(kind, operation))
            else:
                self.answer(200, {"status": "Succeeded"}, {"Location": f"{self.base}/v1/operations/{kind}/result"})

        @property
        def base(self) -> str:
            return f"http://{self.headers['Host']}"

        def where(self, operation_id: str, operation: _Operation) -> dict[str, str]:
            return {
                "x-ms-operation-id": operation_id,
                "Location": f"{self.base}/v1/operations/{operation_id}",
                "Retry-After": str(operation.retry_after_s),
            }

        def answer(self, status: int, body: object = None, headers: dict[str, str] | None = None) -> None:
            content = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if body is not None:
                self.send_header("Content-Type", "application/json")
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            pass

    return Handler
