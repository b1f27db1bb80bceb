"""A worker and a broker, both endpoints of the AMQP layer, with a relay between them, and no I/O at all.

`Weave.settle` moves bytes until nobody has anything to say. What the relay asks of its shell and tells the ledger is
remembered.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from renewer.amqp import Connection, SaslAnonymous, SaslServer
from renewer.gateway.access import Doorman
from renewer.gateway.options import EntityPolicy, GatewayOptions, TcpAddress, WorkerKey
from renewer.gateway.relay import Relay
from renewer.targets.servicebus import NamespaceOptions, SharedAccessKey
from renewer.targets.servicebus.credentials import EntityToken
from renewer.targets.servicebus.sas import shared_access_signature

WALL = 1_767_225_600.0  # 2026-01-01
KEY = "d29ya2VyLWtleS1vZi10aGUtdGVzdHMtMTIzNDU2Nzg="


def options(**changes) -> GatewayOptions:
    given = {
        "name": "main",
        "listen": TcpAddress("127.0.0.1", 5672),
        "namespace": NamespaceOptions(
            hostname="contoso.servicebus.example",
            host="127.0.0.1",
            port=5671,
            credential=SharedAccessKey("cloud", "Y2xvdWQta2V5"),
        ),
        "keys": (WorkerKey("local", KEY, ("orders", "events/Subscriptions/*")),),
        "policies": (EntityPolicy(),),
    }
    return GatewayOptions(**{**given, **changes})


def worker_token(audience: str = "sb://127.0.0.1:5672/orders", *, key: str = KEY, name: str = "local", ends_in=3600):
    return shared_access_signature(audience, key_name=name, key=key, expires_at=int(WALL + ends_in))


@dataclass
class Told:
    """A ledger that remembers what it was told."""

    worker: str = ""
    spare: object = None
    calls: list = field(default_factory=list)

    def opened(self, spare, now):
        self.spare = spare
        self.calls.append(("opened", now))

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))

    def of(self, name):
        return [call for call in self.calls if call[0] == name]


@dataclass
class Host:
    """A shell that remembers what it was asked for."""

    dials: int = 0
    tokens: list = field(default_factory=list)
    flushes: int = 0
    keys: list = field(default_factory=list)
    refusals: list = field(default_factory=list)
    failures: list = field(default_factory=list)
    draining: bool = False

    def is_draining(self):
        return self.draining

    def dial(self):
        self.dials += 1

    def fetch_token(self, entity):
        self.tokens.append(entity)

    def flush(self):
        self.flushes += 1

    def flush_now(self):
        self.flushes += 1

    def let_in(self, key):
        self.keys.append(key)

    def refused(self, why, detail):
        self.refusals.append((why, detail))

    def upstream_failed(self, detail):
        self.failures.append(detail)


class Weave:
    """All three. `now` is the time of everybody. `chunk` is how many bytes arrive at once, most."""

    def __init__(self, *, worker=None, broker=None, chunk=65536, dials=True, **changes) -> None:
        self.now = 100.0
        self.host = Host()
        self.told = Told()
        self.options = options(**changes)
        self.relay = Relay(
            self.host, self.options, Doorman(self.options.keys), self.told, now=self.now, wall=lambda: WALL + self.now
        )
        self.chunk = chunk
        self.dials = dials
        self.broker = broker or server()
        self.worker = worker or client()
        self.from_worker: list = []
        self.from_broker: list = []
        self.seen_by_worker = bytearray()
        self.seen_by_broker = bytearray()
        self._dialed = 0
        self._tokened = 0
        self.token = EntityToken("SharedAccessSignature ours", "servicebus.windows.net:sastoken", 1_800_000_000, 4e9)

    def settle(self):
        """Until all is quiet; returns what the worker and the broker were told since."""
        worker_events, broker_events = [], []
        for _ in range(10_000):
            moved = False
            if self.dials and self.host.dials > self._dialed:
                self._dialed += 1
                self.relay.dialed(self.now)
                moved = True
            if self.token is not None and len(self.host.tokens) > self._tokened:
                self._tokened += 1
                self.relay.token_ready(self.token, "", self.now)
                moved = True
            if data := self.worker.take_output(self.now):
                for start in range(0, len(data), self.chunk):
                    self.relay.from_worker(bytearray(data[start : start + self.chunk]), self.now)
                moved = True
            if out := b"".join(self.relay.to_broker):
                self.relay.to_broker.clear()
                self.seen_by_broker += out
                broker_events += self.broker.receive(out, self.now)
                moved = True
            if data := self.broker.take_output(self.now):
                for start in range(0, len(data), self.chunk):
                    self.relay.from_broker(bytearray(data[start : start + self.chunk]), self.now)
                moved = True
            if out := b"".join(self.relay.to_worker):
                self.relay.to_worker.clear()
                self.seen_by_worker += out
                worker_events += self.worker.receive(out, self.now)
                moved = True
            if not moved:
                return worker_events, broker_events
        raise AssertionError("they never came to rest")


def client(**changes) -> Connection:
    given = {"container_id": "worker-1", "hostname": "127.0.0.1", "sasl": SaslAnonymous(), "now": 100.0}
    return Connection(role="client", **{**given, **changes})


def server(**changes) -> Connection:
    given = {
        "container_id": "broker",
        "sasl": SaslServer(["MSSBCBS", "PLAIN", "ANONYMOUS"]),
        "now": 100.0,
        "idle_time_out_s": 240.0,
    }
    return Connection(role="server", **{**given, **changes})
