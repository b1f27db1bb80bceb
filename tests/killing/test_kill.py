"""The daemon is killed (-9) at random moments and started again; nothing that it acknowledged may be missing.

Real processes, a real disk, real sockets. A dozen kills here; `make kill` does 200 (RENEWER_KILLS).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.killing.witness import Witness

KILLS = int(os.environ.get("RENEWER_KILLS", "12"))
SEED = int(os.environ.get("RENEWER_KILL_SEED", "1"))
PATIENCE_S = 90
LEASES = 30
MOST_WISHES = 200 + 5 * KILLS
OVER = {"succeeded", "failed", "canceled", "expired", "timed_out", "unpollable", "rejected"}


@dataclass
class Wish:
    """Something that a worker wants registered, until it is: with the same key, however often it takes."""

    key: str
    path: str
    body: dict[str, Any]
    name: str
    id: str | None = None
    seen: dict[str, Any] = field(default_factory=dict)


@dataclass
class Stage:
    """A daemon that comes and goes, and what it acknowledged."""

    folder: Path
    witness: Witness
    dice: random.Random
    wishes: list[Wish] = field(default_factory=list)
    released: set[str] = field(default_factory=set)
    releasing: set[str] = field(default_factory=set)

    @property
    def socket(self) -> Path:
        return self.folder / "renewer.sock"

    def start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "daemon.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "renewer", "run", "--config", str(self.folder / "config.toml")],
                stdout=log,
                stderr=log,
            )

    @contextmanager
    def api(self) -> Iterator[httpx.Client]:
        transport = httpx.HTTPTransport(uds=str(self.socket))
        with httpx.Client(transport=transport, base_url="http://renewer", timeout=30) as api:
            yield api

    def wait_until_ready(self, daemon: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            assert daemon.poll() is None, (self.folder / "daemon.log").read_text()[-4000:]
            assert time.monotonic() < end, "the daemon did not become ready"
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(self.socket))
                return
            time.sleep(0.02)

    def work(self, base_url: str) -> None:
        """Ask for one thing after another until the daemon is gone."""
        try:
            with self.api() as api:
                for wish in [wish for wish in self.wishes if wish.id is None]:
                    self.ask(api, wish)
                while True:
                    if self.dice.random() < 0.05:
                        self.release_one(api)
                    if len(self.wishes) < MOST_WISHES:
                        self.wishes.append(self.new_wish(base_url))
                        self.ask(api, self.wishes[-1])
                    else:
                        wish = self.dice.choice(self.wishes)
                        assert api.get(f"{wish.path}/{wish.id}").status_code == 200
        except httpx.HTTPError:
            return

    def ask(self, api: httpx.Client, wish: Wish) -> None:
        answer = api.post(wish.path, json=wish.body, headers={"Idempotency-Key": wish.key})
        assert answer.status_code in (200, 201), answer.text
        wish.id = answer.json()["id"]

    def new_wish(self, base_url: str) -> Wish:
        number = len(self.wishes)
        name = f"wish-{number}"
        leases = sum(wish.path == "/v1/leases" for wish in self.wishes)
        if leases < LEASES and self.dice.random() < 0.4:
            return Wish(name, "/v1/leases", {"entity": "orders", "session_id": name}, name)
        body: dict[str, Any] = {"callback": f"{base_url}/called", "labels": {"name": name}}
        if self.dice.random() < 0.5:
            body["submit"] = {"method": "POST", "url": "/workspaces/W/items", "body": {"displayName": name}}
        else:
            operation_id, operation = self.witness.begin(name)
            body["adopt"] = {
                "method": "POST",
                "url": f"{base_url}/v1/workspaces/W/items",
                "status": 202,
                "headers": {"x-ms-operation-id": operation_id, "Retry-After": str(operation.retry_after_s)},
            }
        return Wish(name, "/v1/operations", body, name)

    def release_one(self, api: httpx.Client) -> None:
        known = [w for w in self.wishes if w.path == "/v1/leases" and w.id is not None and w.id not in self.released]
        if known:
            wish = self.dice.choice(known)
            self.releasing.add(str(wish.id))
            assert api.delete(f"{wish.path}/{wish.id}").status_code == 204
            self.released.add(str(wish.id))

    def check(self) -> None:
        """Everything that was acknowledged is there, and has not gone back."""
        with self.api() as api:
            known = {item["id"]: item for path in ("/v1/leases", "/v1/operations") for item in everything(api, path)}
        for wish in self.wishes:
            if wish.id is None:
                continue
            assert wish.id in known, f"{wish.name} was acknowledged as {wish.id}, and is gone"
            before, now = wish.seen, known[wish.id]
            wish.seen = now
            if wish.path == "/v1/leases":
                assert now["epoch"] >= before.get("epoch", 0)
                assert wish.id not in self.released or now["state"] == "released"
                assert wish.id in self.releasing or now["state"] != "released"
            elif before.get("state") in OVER:
                assert (now["state"], now["result"], now["error"]) == (
                    before["state"],
                    before["result"],
                    before["error"],
                )


def everything(api: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    after: dict[str, str] = {}
    while True:
        page = api.get(path, params={"limit": 1000, **after}).raise_for_status().json()
        yield from page["items"]
        if page["next"] is None:
            return
        after = {"after": page["next"]}


@contextmanager
def emulator() -> Iterator[str]:
    command = ["emulator", "--amqp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--lock-duration", "5s"]
    with subprocess.Popen(
        [sys.executable, "-m", "renewer", *command, "--queue", "orders:session"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            lines = map(json.loads, process.stderr)
            yield next(line["amqp"] for line in lines if line["event"] == "emulator ready")
        finally:
            process.kill()


# A client whose server is killed while it connects leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nothing_that_was_acknowledged_is_lost_by_kill_9_at_any_moment(tmp_path: Path) -> None:
    witness, dice = Witness(), random.Random(SEED)
    stage = Stage(tmp_path, witness, dice)
    with witness.serving() as base_url, emulator() as amqp:
        (tmp_path / "config.toml").write_text(
            f"""
            daemon.state_dir = "{tmp_path}"
            daemon.log_level = "warning"
            api.listen = "unix:{stage.socket}"
            metrics.listen = "off"
            [servicebus.main]
            connection_string = "Endpoint=sb://{amqp};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
            [fabric.main]
            base_url = "{base_url}/v1"
            token = "local"
            poll_floor = "10ms"
            """
        )
        for _ in range(KILLS):
            daemon = stage.start()
            try:
                if dice.random() < 0.2:
                    time.sleep(1.5 * dice.random())
                    continue
                stage.wait_until_ready(daemon)
                stage.check()
                worker = threading.Thread(target=stage.work, args=[base_url])
                worker.start()
                time.sleep(dice.choice((0.02, 0.3, 1.5)) * dice.random())
                daemon.send_signal(signal.SIGKILL)
                worker.join(PATIENCE_S)
                assert not worker.is_alive()
            finally:
                daemon.kill()
                daemon.wait()
        daemon = stage.start()
        try:
            stage.wait_until_ready(daemon)
            see_the_end(stage)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(PATIENCE_S) == 0
        finally:
            daemon.kill()
            daemon.wait()


def see_the_end(stage: Stage) -> None:
    """Everything comes to its end: once, as the service has it, and told."""
    witness = stage.witness
    with stage.api() as api:
        for wish in [wish for wish in stage.wishes if wish.id is None]:
            stage.ask(api, wish)
        ids = [str(wish.id) for wish in stage.wishes if wish.path == "/v1/operations"]
        for start in range(0, len(ids), 1000):
            body = {"ids": ids[start : start + 1000], "until": "all"}
            answer = api.post("/v1/operations/wait", params={"wait": "60s"}, json=body, timeout=90)
            assert answer.raise_for_status().json()["done"]
        stage.check()
        for wish in stage.wishes:
            if wish.path == "/v1/leases" and wish.id not in stage.releasing:
                held = api.get(f"/v1/leases/{wish.id}", params={"wait": "30s"}).json()
                assert held["state"] == "held", held
        operations = [wish for wish in stage.wishes if wish.path == "/v1/operations"]
        for wish in operations:
            assert witness.submits[wish.name] <= 1, f"{wish.name} was started twice"
            if wish.seen["state"] == "rejected":
                assert "submit" in wish.body
                assert "may or may not have started" in wish.seen["error"]["message"]
                continue
            assert wish.seen["state"] == "succeeded", wish.seen
            assert api.get(f"/v1/operations/{wish.id}/result").json() == {"name": wish.name}
            wait_for_callback(witness, str(wish.id))
    told = [len(ids) for (_, kind), ids in witness.called.items() if kind == "renewer.operation.succeeded"]
    assert set(told) <= {1}, "an operation's end was told as two different events"
    assert witness.early_s == []
    states = [wish.seen["state"] for wish in operations]
    print(
        f"{KILLS} kills; {len(stage.wishes) - len(operations)} leases, {len(operations)} operations "
        f"({states.count('rejected')} of which may not have started), {witness.polls} polls: "
        "0 lost, 0 early, 0 told twice"
    )


def wait_for_callback(witness: Witness, subject: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not witness.called[subject, "renewer.operation.succeeded"]:
        assert time.monotonic() < end, f"the end of {subject} was never told"
        time.sleep(0.05)
