"""Commands are loaded when they are used: nobody can tell but by the time that it takes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.main import get_group

from renewer.cli import app
from renewer.cli.later import Later
from tests.cli.conftest import Run
from tests.client.standin import StandIn, problem

COMMANDS = [command for command in get_group(app).commands.values() if isinstance(command, Later)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_a_command_is_listed_with_the_first_words_of_its_own_help(command: Later) -> None:
    loaded = command.load()
    assert loaded.help is not None
    assert loaded.help.split("\n\n")[0] == command.help


def imported_by(*arguments: str, code: int = 0) -> set[str]:
    """The modules that a command line imports, if it ends with this code."""
    script = (
        "import sys, atexit; sys.argv[0] = 'renewer'; atexit.register(lambda: sys.stderr.write(' '.join(sys.modules)));"
        "from renewer.cli import main; main()"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RENEWER_")}
    command = [sys.executable, "-c", script, *arguments]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    return set(ended.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["lease", "ls", "--help"]])
def test_help_needs_nothing_that_is_slow_to_import(arguments: list[str]) -> None:
    assert not {"aiohttp", "anyio", "fastapi", "httpx", "pydantic", "structlog"} & imported_by(*arguments)


def test_a_health_check_asks_with_the_standard_library(daemon: StandIn) -> None:
    loaded = imported_by("health", "--api", f"unix:{daemon.path}")
    assert "typer" in loaded
    assert not {"aiohttp", "anyio", "fastapi", "httpx", "structlog"} & loaded


def test_a_daemon_loads_only_what_it_needs_to_become_ready() -> None:
    # Refused for its configuration, but only when everything is loaded.
    loaded = imported_by("run", "--set", "daemon.log_level=loud", code=78)
    assert "renewer.daemon.app" in loaded
    assert not {"aiohttp", "fastapi", "pydantic_settings", "renewer.api.server", "rich"} & loaded
    assert not {"renewer.amqp", "renewer.gateway", "renewer.targets.servicebus"} & loaded


def test_a_daemon_loads_what_sends_requests_only_when_it_is_ready() -> None:
    code = (
        "import sys, renewer.cli.run, renewer.targets.http as http; before = 'aiohttp' in sys.modules;"
        "http.load_aiohttp(); print(before, 'aiohttp' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "True"]


def test_a_daemon_that_objects_to_a_health_check_is_quoted_in_the_usual_words(run: Run, daemon: StandIn) -> None:
    daemon.answers["GET", "/v1/status"] = problem(401, "the key is missing")
    answer, status = run("health"), run("status")
    assert answer.code == 77
    assert answer.err == status.err


def test_the_shell_completes_commands_within_a_group() -> None:
    words = {"_RENEWER_COMPLETE": "complete_bash", "COMP_WORDS": "renewer lease h", "COMP_CWORD": "2"}
    ended = subprocess.run(
        [sys.executable, "-c", "from renewer.cli import main; main()"],
        env={**os.environ, **words},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.split() == ["hold", "heartbeat"]
