"""A relay that knows no AMQP: it copies bytes between both sides, and does and notes what a test tells it to.

What a worker says first are words of command, each ended by a newline: ``dial``, ``token NAME``, ``let-in KEY``,
``refuse WHY``, ``bye``, ``crash``. Everything after ``dial`` is for the broker.
"""

from __future__ import annotations

import anyio


class FakeRelay:
    """Has the surface of `Relay`."""

    def __init__(self, host, options, doorman, ledger, *, now, wall):
        self.host = host
        self.options = options
        self.ledger = ledger
        self.started_at = now
        self.to_worker = []
        self.to_broker = []
        self.holds_worker = False
        self.worker_done = False
        self.broker_done = False
        self.passed_to_worker = 0
        self.news = []
        self._changed = anyio.Event()
        self._line = bytearray()
        self._is_dialed = False
        self._is_over = False

    def note(self, *what):
        self.news.append(what)
        self._changed.set()

    async def until(self, *what):
        """Wait until this was noted; a prefix is enough."""
        while not any(news[: len(what)] == what for news in self.news):
            self._changed = anyio.Event()
            await self._changed.wait()

    def from_worker(self, data, now):
        if self._is_dialed:
            self.to_broker.append(data)
            return
        self._line += data
        while not self._is_dialed and not self._is_over and b"\n" in self._line:
            line, _, rest = self._line.partition(b"\n")
            self._line = bytearray(rest)
            self._obey(*line.decode().split())

    def _obey(self, command, *words):
        match command:
            case "dial":
                self.holds_worker = True
                self.host.dial()
            case "token":
                self.holds_worker = True
                self.host.fetch_token(words[0])
            case "let-in":
                self.ledger.worker = "worker"
                self.host.let_in(words[0])
                self.to_worker.append(b"welcome\n")
            case "refuse":
                self.host.refused(words[0], "for the test")
                self.to_worker.append(b"refused\n")
            case "bye":
                self.end(b"bye\n")
            case "crash":
                raise RuntimeError("for the test")

    def from_broker(self, data, now):
        self.passed_to_worker += 1
        self.to_worker.append(data)

    def worker_gone(self, now):
        self.note("worker gone")
        self.to_broker.append(b"detach\n")
        self.worker_done = self.broker_done = True

    def broker_gone(self, detail, now):
        self.note("broker gone", detail)
        if not self._is_over:
            self.host.upstream_failed(detail)
        self.broker_done = True
        self.end(b"upstream gone\n")

    def dialed(self, now):
        self.note("dialed")
        self.holds_worker = False
        self._is_dialed = True
        self.to_worker.append(b"dialed\n")
        if self._line:
            self.to_broker.append(bytes(self._line))

    def dial_failed(self, detail, now):
        self.note("dial failed", detail)
        self.host.upstream_failed(detail)
        self.broker_done = True
        self.end(f"{detail}\n".encode())

    def token_ready(self, token, detail, now):
        self.note("token", token, detail)
        self.holds_worker = False
        self.to_worker.append(f"{token or detail}\n".encode())

    def advance(self, now):
        if not self._is_over and now - self.started_at > self.options.login_timeout_s and not self._is_dialed:
            self.host.refused("timeout", "for the test")
            self.end(b"late\n")

    def worker_paused(self, now):
        self.note("paused")

    def worker_drained(self, now):
        self.note("drained")

    def stop(self, reason, now):
        self.note("stop", reason)
        if self._is_dialed:
            self.to_broker.append(b"detach\n")
        self.broker_done = True
        self.end(b"stopped\n")

    def end(self, last_words):
        if not self._is_over:
            self._is_over = True
            self.to_worker.append(last_words)
            self.worker_done = True


class FakeLedger:
    worker = ""


class FakeTarget:
    """Has the surface of `GatewayTarget` that the server uses."""

    def __init__(self):
        self.ticks = 0
        self.ledgers = []

    def connection(self, *, key_name, worker):
        self.ledgers.append(FakeLedger())
        return self.ledgers[-1]

    def tick(self, now):
        self.ticks += 1
