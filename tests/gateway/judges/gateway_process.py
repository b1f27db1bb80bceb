"""The daemon with gateways as a user has it: a process of its own, and a broker that it is not told is an emulator.

RENEWER_JUDGE_DIRECT=1 lets the SDKs talk to the broker itself, which judges the tests: what fails then is theirs.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from renewer.emulator.broker import Broker, BrokerOptions
from tests.emulator.sdk_rig import SdkRig
from tests.judges.daemon_process import PATIENCE_S, DaemonProcess, View, running
from tests.ports import free_port, free_ports

T = TypeVar("T")

DIRECT = bool(os.environ.get("RENEWER_JUDGE_DIRECT"))
NEEDS_GATEWAY = pytest.mark.skipif(DIRECT, reason="is about the gateway itself")
KINDS = ("keeping", "honest", "passing")
"""Gateways that keep locks and show them longer than they are; that show them as they are; and that keep nothing."""
ALLOWED = "allowed"
"""The only entity that the key "narrow" opens."""


class Gateways:
    """A daemon with one gateway of each kind, before the same namespace.

    `others` are more namespaces, by name, before each of which there is a gateway of that name, too; `ca_file` vouches
    for all. With a certificate there is a gateway "tls" that shows it.
    """

    def __init__(
        self,
        upstream: str,
        *,
        others: Mapping[str, str] | None = None,
        login_timeout: str = "20s",
        ca_file: str | None = None,
        certificate: str | None = None,
    ) -> None:
        self.upstream = upstream
        self.login_timeout = login_timeout
        self.ca_file = ca_file
        self.namespaces = {"main": upstream, **(others or {})}
        self.kinds = {**dict.fromkeys(KINDS, "main"), **{name: name for name in others or {}}}
        self.certificate = certificate
        if certificate is not None:
            self.kinds["tls"] = "main"
        self.keys = {name: base64.b64encode(secrets.token_bytes(32)).decode() for name in ("local", "narrow")}
        self.ports = dict(zip(self.kinds, free_ports(len(self.kinds)), strict=True))
        self.daemon: DaemonProcess
        self.api: httpx.Client

    @property
    def config(self) -> str:
        """Its part of the configuration."""
        sections = [f'[servicebus.{name}]\nconnection_string = "{at}"\n' for name, at in self.namespaces.items()]
        if self.ca_file is not None:
            sections = [f'{section}ca_file = "{self.ca_file}"\n' for section in sections]
        for kind, port in self.ports.items():
            keeps = "false" if kind == "passing" else "true"
            shown = "true" if kind == "honest" else "extended"
            certificate = f'tls_cert_file = "{self.certificate}"' if kind == "tls" else ""
            sections.append(
                f"""
                [[gateway]]
                name = "{kind}"
                listen = "127.0.0.1:{port}"
                servicebus = "{self.kinds[kind]}"
                login_timeout = "{self.login_timeout}"
                max_connections = 5000
                {certificate}
                show_lock_until = "{shown}"
                [[gateway.key]]
                name = "local"
                key = "{self.keys["local"]}"
                entities = ["*", "*/Subscriptions/*"]
                [[gateway.key]]
                name = "narrow"
                key = "{self.keys["narrow"]}"
                entities = ["{ALLOWED}"]
                [gateway.renew]
                sessions = {keeps}
                messages = {keeps}
                """
            )
        return "\n".join(sections)

    def connection_string(self, kind: str = "keeping", key_name: str = "local", key: str | None = None) -> str:
        """What a worker is told."""
        if DIRECT:
            return self.upstream
        return (
            f"Endpoint=sb://127.0.0.1:{self.ports[kind]};SharedAccessKeyName={key_name};"
            f"SharedAccessKey={key or self.keys[key_name]};UseDevelopmentEmulator=true"
        )

    def leases(self, entity: str, **only: object) -> list[View]:
        """What the API says of the leases of an entity."""
        items: list[View] = []
        after: dict[str, str] = {}
        while True:
            page = self.api.get("/v1/leases", params={"limit": "1000", **after}).raise_for_status().json()
            items += page["items"]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        return [item for item in items if item["entity"] == entity and all(item[name] == only[name] for name in only)]

    def rss_mib(self) -> float:
        """What the daemon has of the machine's memory."""
        pages = Path(f"/proc/{self.daemon.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def until_leases(self, entity: str, number: int, **only: object) -> list[View]:
        """Its leases, once there are so many."""
        return until(lambda: (found := self.leases(entity, **only), len(found) == number), f"{number} leases")[0]

    def events_of(self, lease_id: str, last: str) -> list[str]:
        """The types of the events of a lease, in order, up to the first of type `last`."""
        types: list[str] = []
        # From the beginning: it is what came before this request that is asked for.
        with self.api.stream("GET", "/v1/events", params={"after": "0-0", "subject": lease_id}) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if line.startswith("event: ") and not line.endswith("stream.gap"):
                    types.append(line.removeprefix("event: "))
                    if types[-1] == last:
                        return types
        raise AssertionError(f"the stream ended after {types}")


class JudgedBroker(SdkRig):
    """A broker for the gateways; its queues last when it is started again on its port."""

    def __init__(self, broker: Broker, portal: Any) -> None:
        super().__init__(portal, broker, free_port())
        self._serving: Any = None

    def start(self) -> None:
        self._serving, _ = self._portal.start_task(self._broker.serve, "127.0.0.1", self.port)

    def stop(self) -> None:
        """End every connection, and listen no more."""
        self._serving.cancel()
        self._portal.call(self._broker.reset_connections)

    def call(self, function: Callable[[Broker], T]) -> T:
        """Ask the broker something, in its thread."""
        return self._portal.call(function, self._broker)

    def through(self, gateways: Gateways, kind: str) -> JudgedBroker:
        """The same, for those who take the connection string from it."""
        seen = JudgedBroker.__new__(JudgedBroker)
        seen.__dict__.update(self.__dict__, connection_string=gateways.connection_string(kind))
        return seen


def until(probe: Callable[[], tuple[T, bool]], what: str, patience_s: float = PATIENCE_S) -> tuple[T, bool]:
    """Ask again and again until it says True."""
    end = time.monotonic() + patience_s
    while True:
        found = probe()
        if found[1]:
            return found
        assert time.monotonic() < end, f"not within {patience_s} s: {what}; the last was {found[0]}"
        time.sleep(0.02)


@contextmanager
def judged_broker(options: BrokerOptions | None = None) -> Iterator[JudgedBroker]:
    """A broker in a thread of its own; a fault of its own fails the test."""
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        broker = JudgedBroker(portal.call(lambda: Broker(options=options)), portal)
        broker.start()
        try:
            yield broker
            assert broker.failures() == 0
        finally:
            broker.stop()


@contextmanager
def gateways_before(upstream: str, **options: Any) -> Iterator[Gateways]:
    """A daemon with gateways before that namespace; it ends without being asked."""
    gateways = Gateways(upstream, **options)
    if DIRECT:
        yield gateways
        return
    with running(gateways.config) as gateways.daemon, gateways.daemon.api.client() as gateways.api:
        yield gateways
        broken = [line for line in gateways.daemon.log if _is_broken(line)]
        assert not broken, "\n".join(broken)


def _is_broken(line: str) -> bool:
    """Whether a line of the log tells of a fault of our own."""
    try:
        entry = json.loads(line)
    except ValueError:
        return True  # A traceback, a warning of the interpreter.
    return entry.get("level") == "critical" or "exception" in entry or "Traceback" in line
