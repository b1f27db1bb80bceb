"""Minutes of real time: daemon and emulator as processes of their own, as a user runs them. `make soak`."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.ports import free_ports

pytestmark = pytest.mark.soak

SOAK_S = float(os.environ.get("RENEWER_SOAK_SECONDS", "600"))
HERE = Path(__file__).parent


@contextmanager
def running(*arguments: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "renewer", *arguments], stdout=sink, stderr=sink, env={**os.environ, **environment}
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def until(probe: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if probe():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < end, "it did not come to pass in time"
        time.sleep(0.2)


class Scene:
    """An emulator and a daemon that holds sessions on it."""

    def __init__(self, folder: Path, sessions: int, lock: str) -> None:
        self.folder = folder
        self.amqp, self.http, self.metrics = free_ports(3)
        self.lock = lock
        self.config = folder / "config.toml"
        self.socket = folder / "renewer.sock"
        self.config.write_text(
            f"""
            daemon.state_dir = "{folder}"
            daemon.log_level = "warning"
            api.listen = "unix:{self.socket}"
            metrics.listen = "127.0.0.1:{self.metrics}"
            [servicebus.main]
            connection_string = "Endpoint=sb://127.0.0.1:{self.amqp};SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
            """
            + "".join(f'[[session]]\nentity = "orders"\nsession_id = "s-{number}"\n' for number in range(sessions))
        )
        self.api = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket)), base_url="http://renewer", timeout=30
        )
        self.emulator = httpx.Client(base_url=f"http://127.0.0.1:{self.http}/_emulator", timeout=30)

    @contextmanager
    def playing(self, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        emulator = running(
            "emulator", "--amqp", f"127.0.0.1:{self.amqp}", "--http", f"127.0.0.1:{self.http}",
            "--lock-duration", self.lock, "--queue", "orders:session", "--log-level", "warning",
            log=self.folder / "emulator.log",
        )  # fmt: skip
        with emulator, self.emulator, self.api:
            until(lambda: self.emulator.get("/state").is_success, 30)
            with running("run", "--config", str(self.config), log=self.folder / "daemon.log", **environment) as daemon:
                until(self.socket.exists, 30)
                yield daemon

    def leases(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        after: dict[str, str] = {}
        while True:
            page = self.api.get("/v1/leases", params={"limit": 1000, **after}).raise_for_status().json()
            found += page["items"]
            if page["next"] is None:
                return found
            after = {"after": page["next"]}

    def held(self) -> int:
        return sum(lease["state"] == "held" for lease in self.leases())


def test_a_short_lock_outlives_lost_replies_busy_answers_and_a_jumping_wall_clock(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler is needed to build the wall clock's shim"
    shim, shift = tmp_path / "wallclock.so", tmp_path / "shift"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, HERE / "wallclock.c", "-ldl"], check=True)
    shift.write_bytes(struct.pack("=q", 0))
    scene = Scene(tmp_path, sessions=1, lock="5s")
    with scene.playing(LD_PRELOAD=str(shim), WALLCLOCK_SHIFT=str(shift)) as daemon:
        until(lambda: scene.held() == 1, 30)
        for action in ("lose_reply", "busy"):
            fault = {"on": "servicebus.management", "action": action, "every": 50}
            scene.emulator.post("/faults", json=fault).raise_for_status()
        end = time.monotonic() + SOAK_S
        hours = 0
        while (left := end - time.monotonic()) > 0:
            hours = {0: 1, 1: -1, -1: 0}[hours]
            with shift.open("r+b") as file:
                file.write(struct.pack("=q", hours * 3600))
            time.sleep(min(left, max(SOAK_S / 20, 5)))
            assert daemon.poll() is None
        (lease,) = scene.leases()
        print("\n" + json.dumps({key: lease[key] for key in ("state", "epoch", "renewals", "losses", "min_margin_s")}))
        assert (lease["state"], lease["epoch"], lease["losses"]) == ("held", 1, 0)
        assert float(str(lease["min_margin_s"])) >= 1.0
        assert int(str(lease["renewals"])) >= SOAK_S / 2.5 * 0.8


def test_five_thousand_sessions_are_held_over_few_connections(tmp_path: Path) -> None:
    scene = Scene(tmp_path, sessions=5000, lock="30s")
    with scene.playing() as daemon:
        began_at = time.monotonic()
        until(lambda: scene.held() == 5000, 120)
        accepted_s = time.monotonic() - began_at
        cpu_before, clock_before = cpu_s(daemon.pid), time.monotonic()
        time.sleep(SOAK_S)
        load = (cpu_s(daemon.pid) - cpu_before) / (time.monotonic() - clock_before)
        leases = scene.leases()
        state = scene.emulator.get("/state").json()["servicebus"]
        # The least of each in all that time; a renewal is due when half of the lock is left, or more.
        margins = sorted(float(str(lease["min_margin_s"])) for lease in leases)
        p1_to_planned = margins[len(margins) // 100] / 15
        print(
            "\n"
            + json.dumps(
                {
                    "accepted_s": round(accepted_s, 1),
                    "cores": round(load, 3),
                    "rss_mib": rss_mib(daemon.pid),
                    "min_margin_s": margins[0],
                    "margin_p1_to_planned": round(p1_to_planned, 3),
                    "broker": state["counters"],
                }
            )
        )
        assert len(leases) == 5000
        assert all((lease["state"], lease["losses"]) == ("held", 0) for lease in leases)
        assert p1_to_planned >= 0.95
        assert load < 0.1
        assert state["counters"]["sessions_per_connection_max"] <= 1000
        assert state["counters"]["links_per_amqp_session_max"] <= 200


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return round(int(status.partition("VmRSS:")[2].split()[0]) / 1024, 1)
