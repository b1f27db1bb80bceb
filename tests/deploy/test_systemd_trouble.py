"""renewer.service where something is in its way: what it says, how it ends, and that it goes on when it can."""

from __future__ import annotations

import itertools

import pytest

from tests.deploy.nspawn import until
from tests.deploy.service_rig import CONFIG, LOCK_S, STATE, Service

pytestmark = pytest.mark.deploy

SESSION = '[[session]]\nentity = "orders"\nsession_id = "trouble"\n'


def mount_state(service: Service, size: str) -> None:
    service.machine.run("mkdir", "-p", STATE)
    service.machine.run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", STATE)
    service.machine.run("chown", "renewer:renewer", STATE)
    service.machine.run("chmod", "0700", STATE)


def fill(service: Service) -> None:
    filled = service.machine.run("sh", "-c", f"cat /dev/zero >> {STATE}/ballast", check=False)
    assert "No space left" in filled.err


def test_a_wrong_configuration_is_told_whole_and_not_tried_again(service: Service) -> None:
    service.configure('[daemon]\nlog_level = "loud"\n[[session]]\nentyti = "orders"\n')
    service.start_in_vain()
    assert (service.show("ActiveState"), service.show("NRestarts")) == ("failed", "0")
    assert service.show("ExecMainStatus") == "78"
    told = service.journal()
    assert "/etc/renewer/config.toml:2: daemon.log_level" in told
    assert "entyti" in told


def test_a_configuration_that_is_not_there_is_told(service: Service) -> None:
    service.machine.path("/etc/renewer/config.toml").unlink()
    service.start_in_vain()
    assert service.show("ExecMainStatus") == "78"
    assert "/etc/renewer/config.toml" in service.journal()


GATEWAY = """
[[gateway]]
listen = "127.0.0.1:5673"

[[gateway.key]]
name = "local"
key = "cmVuZXdlciBhdCB0aGUgZ2F0ZXdheSwgMzIgYnl0ZXM="
entities = ["orders"]
"""


@pytest.mark.parametrize(("port", "setting"), [(9464, "[metrics] listen"), (5673, "[gateway] listen")])
def test_a_port_in_use_is_told_and_taken_when_it_is_free(service: Service, port: int, setting: str) -> None:
    service.configure(CONFIG + GATEWAY)
    service.machine.run(
        *("systemd-run", "--quiet", "--unit=occupant", "/usr/bin/python3", "-m", "http.server"),
        *("--bind", "127.0.0.1", str(port)),
    )
    try:
        until(lambda: service.get(f"http://127.0.0.1:{port}/").code == 0)
        service.start_in_vain()
        assert service.show("ExecMainStatus") == "73"
        assert f"{setting}: cannot listen on 127.0.0.1:{port}" in service.journal()
    finally:
        service.machine.run("systemctl", "stop", "occupant")
    service.wait_until_active()


def test_a_socket_that_a_killed_daemon_left_is_replaced(service: Service) -> None:
    service.start()
    before = service.machine.path("/run/renewer").stat().st_ino
    service.signal("SIGKILL")
    service.wait_until_active(restarts=1)
    assert service.renewer("health", user="member").code == 0
    assert service.machine.path("/run/renewer").stat().st_ino == before


def test_something_else_in_the_place_of_the_socket_is_left_alone_and_told(service: Service) -> None:
    service.drop_in("[Service]\nExecStartPre=/usr/bin/mkdir -p /run/renewer/renewer.sock\n")
    service.start_in_vain()
    assert service.show("ExecMainStatus") == "73"
    assert "[api] listen: cannot listen on /run/renewer/renewer.sock: something that is not a socket is there" in (
        service.journal()
    )


def test_a_full_disk_at_the_start_is_told_and_the_start_tried_again(service: Service) -> None:
    mount_state(service, "256k")
    fill(service)
    service.start_in_vain()
    assert service.show("ExecMainStatus") == "73"
    assert "the disk is full: make room" in service.journal()
    service.machine.path(f"{STATE}/ballast").unlink()
    service.wait_until_active()


def test_a_state_directory_that_cannot_be_written_is_told(service: Service) -> None:
    mount_state(service, "256k")
    service.machine.run("mount", "-o", "remount,ro", STATE)
    service.start_in_vain()
    assert service.show("ExecMainStatus") == "73"
    assert "read-only: mount its disk writable" in service.journal()


def test_while_the_disk_is_full_locks_are_kept_and_new_work_is_refused(service: Service) -> None:
    mount_state(service, "2m")
    service.configure(CONFIG + SESSION)
    service.start()
    service.wait_until_held()
    full = "the disk is full"
    numbers = itertools.count()

    def is_refused_and_told() -> bool:
        # Room that is allocated already can still be written to, and a failure gives some back.
        fill(service)
        hold = ("lease", "hold", "orders", "--session", f"s{next(numbers)}", "--wait", "0s")
        answer = service.renewer(*hold, check=False)
        ready = service.get("http://127.0.0.1:9464/readyz").out
        trouble = service.ask("status")["trouble"]
        return answer.code == 75 and full in answer.err and full in ready and any(full in line for line in trouble)

    until(is_refused_and_told, what=service.journal)
    assert '"event": "registry not written"' in service.journal()
    assert service.renewer("health").code == 0
    before = service.broker()
    until(lambda: service.broker()["renewals"] > before["renewals"] + 2, within_s=10 * LOCK_S)
    assert service.broker()["locks_expired"] == before["locks_expired"]
    assert service.ask("status")["losses"] == 0
    service.machine.path(f"{STATE}/ballast").unlink()
    until(lambda: service.get("http://127.0.0.1:9464/readyz").out == "ok", what=service.journal)
    assert service.renewer("lease", "hold", "orders", "--session", "again").code == 0
