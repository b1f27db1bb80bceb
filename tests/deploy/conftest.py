"""What the tests of deploy/ share. Those that need root or tools that are not there say so and are skipped."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import containers, nspawn
from tests.deploy.containers import Net, Podman, network
from tests.deploy.service_rig import Service, machine_with_renewer
from tests.deploy.tools import REPOSITORY


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """renewer as the README of deploy/systemd has it installed, to be copied to /opt/renewer."""
    why_not = nspawn.why_not()
    if why_not is not None:
        pytest.skip(why_not)
    made = tmp_path_factory.mktemp("opt") / "renewer"
    try:
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--copies", str(made)], check=True, capture_output=True)
    except subprocess.CalledProcessError:
        pytest.skip("needs python3-venv: deploy/install-test-tools.sh installs it")
    pip = [made / "bin/pip", "install", "--quiet", "-c", REPOSITORY / "constraints.txt", REPOSITORY]
    subprocess.run(list(map(str, pip)), check=True)
    command = made / "bin/renewer"
    _, _, rest = command.read_text().partition("\n")
    command.write_text(f"#!/opt/renewer/bin/python3\n{rest}")
    return made


@pytest.fixture(scope="session")
def machine(installation: Path) -> Iterator[nspawn.Machine]:
    """A machine on which renewer is installed as a service, with an emulator for it to talk to."""
    with machine_with_renewer(installation) as booted:
        yield booted


@pytest.fixture
def service(machine: nspawn.Machine) -> Iterator[Service]:
    """The service, configured and not yet started; whatever becomes of it is undone."""
    service = Service(machine)
    service.begin_anew()
    yield service
    service.clear_away()


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """podman, and the image of renewer built by it."""
    why_not = containers.why_not()
    if why_not is not None:
        pytest.skip(why_not)
    made = Podman(tmp_path_factory.mktemp("podman"))
    try:
        made.build()
        yield made
    finally:
        made.clear_away()


@pytest.fixture
def net(podman: Podman) -> Iterator[Net]:
    """A network for the containers of one test."""
    with network(podman) as made:
        yield made
