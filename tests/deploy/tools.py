"""Tools that are not Python's: where they are, or why a test goes without."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path

import pytest

TOOLS = Path(sys.prefix, "deploy")
"""Where `make deploy-test` installs those that come from PyPI."""

REPOSITORY = Path(__file__).parents[2]


def tool(name: str, remedy: str = "deploy/install-test-tools.sh installs it") -> str:
    """The path of a tool; the test is skipped where there is none."""
    found = shutil.which(name, path=os.pathsep.join([str(TOOLS / "bin"), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"needs {name}: {remedy}")
    return found


def sweep_cgroups(name: str) -> None:
    """Remove the groups of that name that a tool left at the top of each hierarchy, unless something runs in them."""
    for top in (Path("/sys/fs/cgroup") / name, *Path("/sys/fs/cgroup").glob(f"*/{name}")):
        inside = [path for path in top.rglob("*") if path.is_dir()] if top.is_dir() else []
        groups = [*sorted(inside, reverse=True), top]
        with contextlib.suppress(OSError):
            if not any((group / "cgroup.procs").read_text().strip() for group in groups):
                for group in groups:
                    group.rmdir()
