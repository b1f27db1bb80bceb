"""renewer as a service of a machine, beside an emulator, two users, and what a test does to them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.deploy.cgroups import TAKE_ALL_MEMORY
from tests.deploy.nspawn import Done, Machine, booted, until

UNIT = "renewer.service"
CREDENTIALS = "/run/credentials/renewer.service"
RENEWER = "/opt/renewer/bin/renewer"
STATE = "/var/lib/renewer"
KEY = "bG9jYWw="
LOCK_S = 5
UNIT_FILES = Path(__file__).parents[2] / "deploy" / "systemd"

CONFIG = f"""
[servicebus.main]
connection_string_file = "{CREDENTIALS}/renewer_servicebus"

[fabric.main]
base_url = "http://127.0.0.1:8323/v1"
token_file = "{CREDENTIALS}/renewer_fabric"
"""

_EMULATOR = "emulator.service"


@contextmanager
def machine_with_renewer(installation: Path) -> Iterator[Machine]:
    """Boot a machine that has the unit, an emulator, a user `member` of the group renewer, and an `outsider`."""

    def prepare(root: Path) -> None:
        subprocess.run(["cp", "-a", str(installation), str(root / "opt/renewer")], check=True)
        for name, folder in (("sysusers", "sysusers.d"), ("tmpfiles", "tmpfiles.d")):
            shutil.copy(UNIT_FILES / f"renewer.{name}.conf", root / "usr/lib" / folder / "renewer.conf")
        shutil.copy(UNIT_FILES / UNIT, root / "etc/systemd/system" / UNIT)

    with booted(prepare) as machine:
        machine.run("useradd", "--system", "--groups", "renewer", "member")
        machine.run("useradd", "--system", "outsider")
        machine.run(
            *("systemd-run", f"--unit={_EMULATOR}", "--quiet", RENEWER, "emulator"),
            *("--queue", "orders:session", "--queue", "plain", "--lock-duration", f"{LOCK_S}s"),
        )
        until(lambda: machine.run(*_CURL, "http://127.0.0.1:8323/_emulator/state", check=False).code == 0)
        yield machine


_CURL = ("curl", "--silent", "--fail-with-body")


class Service:
    """The service on that machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._since = ""

    def begin_anew(self) -> None:
        """Have it configured as `CONFIG` says, with nothing registered, and not running."""
        self.clear_away()
        folder = self.machine.path("/etc/renewer/credentials")
        (folder / "servicebus").write_text(
            f"Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=local;SharedAccessKey={KEY};UseDevelopmentEmulator=true\n"
        )
        (folder / "fabric").write_text("local\n")
        self.configure(CONFIG)
        self.machine.run("systemd-tmpfiles", "--create", "renewer.conf")
        self._since = self.machine.cursor()

    def clear_away(self) -> None:
        """Stop it and forget whatever a test did to it."""
        self.machine.run("systemctl", "stop", UNIT, check=False)
        self.machine.run("systemctl", "reset-failed", check=False)
        while self.machine.run("umount", STATE, check=False).code == 0:
            pass
        self.machine.run("rm", "-rf", STATE, "/run/renewer", f"/run/systemd/system/{UNIT}.d")
        self.machine.run("systemctl", "daemon-reload")
        self.emulator("DELETE", "/faults")

    def configure(self, text: str) -> None:
        """Write its configuration."""
        self.machine.path("/etc/renewer/config.toml").write_text(text)

    def drop_in(self, text: str) -> None:
        """Change the unit."""
        folder = self.machine.path(f"/run/systemd/system/{UNIT}.d")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.conf").write_text(text)
        self.machine.run("systemctl", "daemon-reload")

    def exhaust_memory(self) -> None:
        """Have other processes of the unit take all the memory that it may have."""
        program = "/usr/local/lib/take-all-memory.py"
        self.machine.path(program).write_text(TAKE_ALL_MEMORY)
        # What a unit starts is in its control group; who enters that from elsewhere is not, in the manager's eyes.
        folder = self.machine.path(f"/run/systemd/system/{UNIT}.d")
        (folder / "memory.conf").write_text(f"[Service]\nExecReload=\nExecReload=/usr/bin/python3 {program}\n")
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "reload", UNIT, check=False)

    def start(self) -> None:
        """Start it, as an administrator does; returns when the service manager says that it has started."""
        started = self.machine.run("systemctl", "start", UNIT, check=False)
        assert started.code == 0, self.journal()

    def start_in_vain(self) -> None:
        """Start it where it cannot."""
        assert self.machine.run("systemctl", "start", UNIT, check=False).code != 0, self.journal()

    def stop(self) -> None:
        """Stop it, and wait until it has stopped."""
        self.machine.run("systemctl", "stop", UNIT)

    def signal(self, name: str) -> None:
        """Send a signal to the daemon itself."""
        self.machine.run("systemctl", "kill", "-s", name, "--kill-whom=main", UNIT)

    def show(self, name: str) -> str:
        """One property of the unit."""
        return self.machine.show(UNIT, name)[name]

    def journal(self) -> str:
        """What was said since `begin_anew`."""
        return self.machine.journal(UNIT, since=self._since)

    def wait_until_active(self, *, restarts: int | None = None) -> None:
        """Wait until it serves (again)."""

        def is_active() -> bool:
            shown = self.machine.show(UNIT, "ActiveState", "NRestarts")
            return shown["ActiveState"] == "active" and restarts in (None, int(shown["NRestarts"]))

        until(is_active, what=self.journal)

    def renewer(self, *arguments: str, user: str = "root", check: bool = True) -> Done:
        """Run a command of renewer's on the machine, as somebody."""
        return self.machine.run_as(user, RENEWER, *arguments, check=check)

    def ask(self, *arguments: str) -> Any:
        """The document that a command answers with."""
        return json.loads(self.renewer(*arguments, "-o", "json").out)

    def get(self, url: str) -> Done:
        """Ask for a page."""
        return self.machine.run(*_CURL, url, check=False)

    def emulator(self, method: str, path: str, body: object = None) -> Any:
        """Tell the emulator something, or ask it."""
        sent = [] if body is None else ["--json", json.dumps(body)]
        answer = self.machine.run(*_CURL, "-X", method, *sent, f"http://127.0.0.1:8323/_emulator{path}").out
        return json.loads(answer) if answer else None

    def broker(self) -> dict[str, Any]:
        """What the emulator's broker has counted."""
        counters: dict[str, Any] = self.emulator("GET", "/state")["servicebus"]["counters"]
        return counters

    def wait_until_held(self, number: int = 1) -> None:
        """Wait until the daemon holds so many sessions."""
        until(lambda: self.ask("status")["leases"].get("held", 0) == number, what=lambda: self.ask("lease", "ls"))
