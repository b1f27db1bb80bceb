"""Public test servers of the Azure SDK family, run as they are, on loopback.

They are installed by `make judges` into a folder of the environment; RENEWER_JUDGES names another one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("RENEWER_JUDGES") or HERE.parents[1] / ".venv" / "judges")
START_S = 60

_STARTED = re.compile(r"Started server on (?:port )?(\d+)")


@dataclass(frozen=True)
class PublicServer:
    """A server from npm: the package it comes in, and how it is started in that package's folder."""

    package: str
    command: Sequence[str]

    @property
    def home(self) -> Path:
        return FOLDER / "node_modules" / self.package

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Start it; gives its base URL. Skips the test where it cannot be had."""
        node = shutil.which("node")
        if node is None:
            pytest.skip("needs node")
        if not self.home.is_dir():
            pytest.skip(f"needs {self.package}, which `make judges` installs")
        with tempfile.TemporaryDirectory(prefix="rn-") as scratch:
            command = [part.format(modules=FOLDER / "node_modules", scratch=scratch) for part in self.command]
            with subprocess.Popen(
                [node, "--require", HERE / "loopback.cjs", *command],
                cwd=self.home,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process:
                try:
                    yield f"http://127.0.0.1:{_port(process)}"
                finally:
                    process.kill()


CLASSIC = PublicServer(
    "@microsoft.azure/autorest.testserver",
    ["dist/cli/cli.js", "--port", "0", "--coverageDirectory", "{scratch}"],
)
"""The one that AutoRest's generated clients are tested with."""

SPECTOR = PublicServer(
    "@azure-tools/azure-http-specs",
    ["{modules}/@typespec/spector/cmd/cli.mjs", "serve", "specs", "--port", "0", "--coverageFile", "{scratch}/seen"],
)
"""The one that clients generated from TypeSpec are tested with."""


def _port(process: subprocess.Popen[str]) -> int:
    """The port that the server says it listens on; what it says later is read and dropped, so that it never waits."""
    found: list[int] = []
    ready = threading.Event()
    last: deque[str] = deque(maxlen=20)

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            match = _STARTED.search(line)
            if match and not found:
                found.append(int(match[1]))
                ready.set()
            last.append(line)
        ready.set()

    threading.Thread(target=read, daemon=True).start()
    assert ready.wait(START_S), "the server said nothing of a port"
    assert found, "".join(last)
    return found[0]
