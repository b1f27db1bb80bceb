"""Tools that are not Python's: where they are, or why a test goes without."""

from __future__ import annotations

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
