"""The image of deploy/container, built and run as its README has it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.cgroups import TAKE_ALL_MEMORY, was_out_of_memory
from tests.deploy.containers import IMAGE, Net, Podman, until
from tests.deploy.tools import REPOSITORY, tool

pytestmark = pytest.mark.deploy

SESSIONS = 200
CONNECTION = (
    "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=local;SharedAccessKey=bG9jYWw=;UseDevelopmentEmulator=true"
)


def begin(net: Net, tmp_path: Path, *, sessions: int = 1, options: tuple[str, ...] = ()) -> None:
    """Run an emulator and the daemon, which is to hold so many sessions."""
    config = tmp_path / "config.toml"
    config.write_text(
        f'[metrics]\nlisten = "0.0.0.0:9464"\n[servicebus.main]\nconnection_string = "{CONNECTION}"\n'
        + "".join(f'[[session]]\nentity = "orders"\nsession_id = "{number}"\n' for number in range(sessions))
    )
    net.run("emulator", "emulator", "--queue", "orders:session", "--lock-duration", "10s")
    net.run("renewer", options=("-v", f"{config}:/etc/renewer/config.toml:ro", *options))
    until(lambda: net.get("http://127.0.0.1:9464/readyz"), what=lambda: net("logs", "renewer"))
    until(lambda: net.broker()["sessions_held"] == sessions, what=lambda: net("logs", "renewer"))


def test_hadolint_has_nothing_to_say() -> None:
    linted = subprocess.run(
        [tool("hadolint"), "--no-color", REPOSITORY / "deploy/container/Containerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_image_is_for_nobody_in_particular_and_holds_no_compiler(podman: Podman) -> None:
    image = json.loads(podman("image", "inspect", IMAGE).stdout)[0]
    assert image["Config"]["User"] == "65532:65532"
    assert image["Config"]["StopSignal"] == "SIGTERM"
    assert image["Healthcheck"]["Test"] == ["CMD", "renewer", "health", "--timeout", "3s"]
    look = "for tool in cc gcc make ld; do ! command -v $tool || exit 1; done; ! test -e /opt/renewer/bin/pip"
    podman("run", "--rm", "--network=none", "--entrypoint", "sh", IMAGE, "-c", look)
    written = podman("run", "--rm", "--network=none", "--entrypoint", "find", IMAGE, "/opt", "-writable")
    assert written.stdout == ""
    assert "bG9jYWw=" not in podman("history", "--no-trunc", IMAGE).stdout


def test_the_image_was_built_by_what_is_pinned(podman: Podman) -> None:
    pinned = re.findall(r"^hatchling==(\S+)", (REPOSITORY / "constraints.txt").read_text(), flags=re.MULTILINE)
    look = "cat /opt/renewer/lib/python3*/site-packages/renewer-*.dist-info/WHEEL"
    wheel = podman("run", "--rm", "--network=none", "--entrypoint", "sh", IMAGE, "-c", look).stdout
    assert [f"Generator: hatchling {version}" for version in pinned] == [wheel.splitlines()[1]]


def test_many_sessions_are_held_in_little_memory_with_nothing_writable_and_given_back(net: Net, tmp_path: Path) -> None:
    begin(net, tmp_path, sessions=SESSIONS)
    assert net("healthcheck", "run", "renewer", check=False).returncode == 0
    assert "Read-only" in net("exec", "renewer", "touch", "/opt/x", check=False).stderr
    status = Path("/proc", str(net.state("renewer")["Pid"]), "status").read_text()
    found = dict(line.split(":\t", 1) for line in status.splitlines())
    assert {found[name].split()[0] for name in ("Uid", "Gid")} == {"65532"}
    assert (int(found["CapBnd"], 16), found["NoNewPrivs"], found["Seccomp"]) == (0, "1", "2")
    assert int(found["VmHWM"].split()[0]) * 1024 < 256 * 1024 * 1024
    # Whoever has not ended after two seconds is killed, and ends with 137.
    net("stop", "--time", "2", "renewer")
    state = net.state("renewer")
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert '"event": "daemon stopped"' in net("logs", "renewer").stderr
    counted = net.broker()
    assert (counted["sessions_held"], counted["locks_expired"]) == (0, 0)


def test_a_daemon_that_hangs_is_unhealthy_and_the_check_ends_by_itself(net: Net, tmp_path: Path) -> None:
    begin(net, tmp_path)
    net("kill", "--signal", "STOP", "renewer")
    asked = net("exec", "renewer", "renewer", "health", "--timeout", "1s", check=False)
    assert (asked.returncode, asked.stderr.strip()) == (75, "renewer: the daemon did not answer within 1 s")
    assert net("healthcheck", "run", "renewer", check=False).returncode == 1
    net("kill", "--signal", "CONT", "renewer")
    until(lambda: net("healthcheck", "run", "renewer", check=False).returncode == 0)


def test_a_configuration_with_mistakes_ends_the_container_with_78(net: Net, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[daemon]\nlog_level = "loud"\n')
    net.run("renewer", options=("-v", f"{config}:/etc/renewer/config.toml:ro"))
    assert net("wait", "renewer").stdout.strip() == "78"
    assert "/etc/renewer/config.toml:2: daemon.log_level" in net("logs", "renewer").stderr


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Path]:
    """Directories that may be mounted: of root's, of the daemon's own, and one without room; and an empty file."""
    for name, owner in (("root", 0), ("own", 65532), ("full", 65532)):
        (tmp_path / name).mkdir()
        if name == "full":
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", tmp_path / name], check=True)
        os.chown(tmp_path / name, owner, owner)
    (tmp_path / "file").write_text("")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", tmp_path / "full"], check=True)


STATE_OF_ROOT = ("-v", "{folder}/root:/var/lib/renewer")
STATE_READ_ONLY = ("-v", "{folder}/own:/var/lib/renewer:ro")
STATE_FULL = ("-v", "{folder}/full:/var/lib/renewer")
SOCKET_TAKEN = ("-v", "{folder}/file:/run/renewer/renewer.sock:ro")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (STATE_OF_ROOT, "permission denied: let the user that renewer runs as own and write it"),
        (STATE_READ_ONLY, "read-only: mount its disk writable"),
        (STATE_FULL, "the disk is full: make room"),
        (SOCKET_TAKEN, "/run/renewer/renewer.sock: something that is not a socket is there"),
        (("--env", "RENEWER_METRICS__LISTEN=127.0.0.1:8323"), "[metrics] listen: cannot listen on 127.0.0.1:8323"),
    ],
    ids=["state of root", "state read-only", "state full", "socket taken", "port in use"],
)
def test_what_is_in_the_way_is_told_and_ends_the_container_with_73(
    net: Net, places: Path, options: tuple[str, ...], told: str
) -> None:
    config = ("-v", f"{places}/file:/etc/renewer/config.toml:ro")
    net.run("emulator", "emulator")
    until(lambda: net.get("http://127.0.0.1:8323/_emulator/state"), what=lambda: net("logs", "emulator"))
    net.run("renewer", options=(*config, *(option.format(folder=places) for option in options)))
    ended = net("wait", "renewer").stdout.strip()
    assert (ended, told in net("logs", "renewer").stderr) == ("73", True), net("logs", "renewer").stderr


def test_a_container_that_runs_out_of_memory_is_started_anew_and_goes_on(net: Net, tmp_path: Path) -> None:
    begin(net, tmp_path, sessions=20, options=("--restart=on-failure", "--memory=160m", "--memory-swap=160m"))
    net("exec", "renewer", "python3", "-c", TAKE_ALL_MEMORY, check=False)
    until(lambda: net.inspect("renewer")["RestartCount"] == 1, what=lambda: net.inspect("renewer"))
    assert was_out_of_memory(net.inspect("renewer")["Id"], "renewer")
    until(lambda: net.get("http://127.0.0.1:9464/readyz"), what=lambda: net("logs", "renewer"))
    until(lambda: net.broker()["sessions_held"] == 20, what=lambda: net("logs", "renewer"))
    told = net("logs", "renewer").stderr
    assert told.count('"event": "lease lost"') == told.count('"event": "lease reacquired"') == 20


def test_a_container_with_too_little_memory_ends_with_137(net: Net) -> None:
    # Not asked is whether podman calls it OOMKilled: with control groups of version 1 it does not.
    net.run("renewer", options=("--memory=24m", "--memory-swap=24m"))
    assert net("wait", "renewer").stdout.strip() == "137"
    assert was_out_of_memory(net.inspect("renewer")["Id"], "renewer")
