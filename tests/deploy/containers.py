"""podman with a storage of its own, an image of renewer built in it, and a network of its own to run it in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.cgroups import sweep_cgroups
from tests.deploy.tools import REPOSITORY, TOOLS

IMAGE = "localhost/renewer:test"
_BASE_TAG = "debian-stand-in"
_COMMAND_S = 180.0
_LOOK_AGAIN_S = 0.05
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def why_not() -> str | None:
    """Why no container can be run here; None where one can."""
    if os.geteuid() != 0:
        return "needs root, for a storage and a network of its own"
    missing = [name for name in ("podman", "runc", "ip", "nsenter", "mmdebstrap") if shutil.which(name) is None]
    return f"needs {', '.join(missing)}: deploy/install-test-tools.sh installs it" if missing else None


class Podman:
    """podman, with everything that it keeps in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name, text in _SETTINGS.items():
            (folder / name).write_text(text.format(folder=folder))
        self._environ = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
        }

    def __call__(
        self, *arguments: str | Path, within: str | None = None, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of podman's, in the network namespace `within` where one is named."""
        entered = [] if within is None else ["nsenter", f"--net=/run/netns/{within}"]
        ended = subprocess.run(
            [*entered, "podman", *map(str, arguments)],
            env=self._environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
        if check:
            assert ended.returncode == 0, f"{arguments}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        return ended

    def build(self) -> None:
        """Build the image of deploy/container, on a stand-in for its base that is made of Debian packages."""
        base = _base(TOOLS / "base.tar")
        self("import", "--change", 'CMD ["python3"]', str(base), f"localhost/python:{_BASE_TAG}")
        container = REPOSITORY / "deploy" / "container"
        self(
            *("build", "--network=host", "--pull=never", "--format=docker", f"--build-arg=PYTHON={_BASE_TAG}"),
            *("--ignorefile", container / "Containerfile.dockerignore", *self._trust()),
            *("-f", container / "Containerfile", "-t", IMAGE, REPOSITORY),
        )

    def clear_away(self) -> None:
        """Remove everything."""
        self("pod", "rm", "-fa", check=False)
        self("rm", "-fav", "-t", "0", check=False)
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted((mount for mount in mounts if mount.startswith(f"{self._folder}/")), reverse=True):
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)
        sweep_cgroups("libpod_parent")

    def _trust(self) -> list[str]:
        """The build trusts whom this machine trusts; nothing of that stays in the image."""
        if not _AUTHORITIES.exists():
            return []
        pip = self._folder / "pip.conf"
        pip.write_text(f"[global]\ncert = {_AUTHORITIES}\n")
        return ["-v", f"{_AUTHORITIES}:{_AUTHORITIES}:ro", "-v", f"{pip}:/etc/pip.conf:ro"]


class Net:
    """A network namespace in which nothing but loopback is, and containers that run in it."""

    def __init__(self, podman: Podman, name: str) -> None:
        self.podman = podman
        self.name = name

    def run(self, name: str, *arguments: str | Path, options: tuple[str, ...] = ()) -> None:
        """Begin a container of the image, as the README has it run: read-only, with no rights and little memory."""
        self(
            *("run", "--detach", "--name", name, "--network=host", "--read-only", "--cap-drop=ALL"),
            *("--security-opt=no-new-privileges", "--memory=256m", "--pids-limit=64"),
            *(*options, IMAGE, *arguments),
        )

    def __call__(self, *arguments: str | Path, check: bool = True, stdin: str | None = None) -> Any:
        """Run a command of podman's in here."""
        return self.podman(*arguments, within=self.name, check=check, stdin=stdin)

    def state(self, name: str) -> dict[str, Any]:
        """How a container is."""
        state: dict[str, Any] = self.inspect(name)["State"]
        return state

    def inspect(self, name: str) -> dict[str, Any]:
        """What podman knows of a container."""
        found: dict[str, Any] = json.loads(self("inspect", name).stdout)[0]
        return found

    def get(self, url: str) -> str | None:
        """A page, None where nobody answers."""
        asked = ["nsenter", f"--net=/run/netns/{self.name}", "curl", "--silent", "--fail-with-body", url]
        ended = subprocess.run(asked, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
        return ended.stdout if ended.returncode == 0 else None

    def broker(self) -> dict[str, Any]:
        """What the emulator's broker has counted."""
        page = self.get("http://127.0.0.1:8323/_emulator/state")
        assert page is not None
        counters: dict[str, Any] = json.loads(page)["servicebus"]["counters"]
        return counters


@contextmanager
def network(podman: Podman) -> Iterator[Net]:
    """A network that is gone, with all that runs in it, in the end."""
    with ExitStack() as undo:
        name = f"renewer-{uuid.uuid4().hex[:8]}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        undo.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        undo.callback(podman, "rm", "-fav", "-t", "0", within=name, check=False)
        undo.callback(podman, "pod", "rm", "-fa", within=name, check=False)
        yield Net(podman, name)


def until(true: Callable[[], object], *, within_s: float = 60.0, what: Callable[[], object] = lambda: "") -> None:
    """Ask until it is true."""
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end, f"not within {within_s} s; {what()}"
        time.sleep(_LOOK_AGAIN_S)


_SETTINGS = {
    "storage.conf": '[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n',
    # Limits that a container without CAP_SYS_RESOURCE can have set, and no service manager to ask.
    "containers.conf": (
        '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]\nlog_driver = "k8s-file"\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n'
    ),
    "registries.conf": "unqualified-search-registries = []\n",
}


def _base(kept: Path) -> Path:
    """What stands in for python:…-slim: Debian and its own Python; made once."""
    if kept.exists():
        return kept
    words = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    if words.get("ID") != "debian":
        pytest.skip("needs Debian, to make a base image of its packages")
    kept.parent.mkdir(parents=True, exist_ok=True)
    made = kept.with_suffix(".part.tar")
    include = "--include=ca-certificates,python3,python3-venv,tzdata"
    skipped = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
    command = ["mmdebstrap", "--quiet", "--variant=essential", include, *skipped, words["VERSION_CODENAME"], str(made)]
    subprocess.run(command, check=True, timeout=600)
    with contextlib.closing(tarfile.open(made)) as tar:
        assert tar.next() is not None
    return made.rename(kept)
