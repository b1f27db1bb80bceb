"""renewer.service under a real systemd: as it starts, reloads, hangs, crashes and stops, and who is let in."""

from __future__ import annotations

import json
import stat

import pytest

from tests.deploy.nspawn import Machine, until
from tests.deploy.service_rig import CONFIG, CREDENTIALS, KEY, RENEWER, STATE, UNIT, Service

pytestmark = pytest.mark.deploy

SOCKET = "/run/renewer/renewer.sock"
SESSION = '[[session]]\nentity = "orders"\nsession_id = "{}"\n'


def test_the_unit_has_no_mistakes(machine: Machine) -> None:
    found = machine.run("systemd-analyze", "verify", "--man=no", f"/etc/systemd/system/{UNIT}", check=False)
    assert (found.code, found.out, found.err) == (0, "", "")


def test_little_is_open_to_it(machine: Machine) -> None:
    rated = machine.run(
        *("systemd-analyze", "security", "--offline=yes", "--threshold=11", "--no-pager"),
        *(f"/etc/systemd/system/{UNIT}",),
        check=False,
    )
    assert rated.code == 0, rated.out


def test_a_start_is_over_when_the_daemon_serves(service: Service) -> None:
    service.configure(CONFIG + SESSION.format("start"))
    service.start()
    assert service.renewer("health").code == 0
    service.wait_until_held()
    until(lambda: service.show("StatusText") == "1 lease held, 0 operations running", what=service.journal)
    assert service.machine.run("ps", "-o", "user=", "-p", service.show("MainPID")).out == "renewer"


def test_the_metrics_of_the_process_are_there(service: Service) -> None:
    service.start()
    page = service.get("http://127.0.0.1:9464/metrics").out
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"):
        assert f"\nprocess_{name} " in page


def test_the_socket_is_for_the_group_and_for_nobody_else(service: Service) -> None:
    service.start()
    assert service.renewer("status", user="member").code == 0
    refused = service.renewer("status", user="outsider", check=False)
    assert refused.code == 77
    assert "not permitted" in refused.err
    found = service.machine.path(SOCKET).stat()
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert stat.S_IMODE(service.machine.path("/run/renewer").stat().st_mode) == 0o750
    assert stat.S_IMODE(service.machine.path(STATE).stat().st_mode) == 0o700


def test_a_process_of_another_user_can_own_a_session(service: Service) -> None:
    service.start()
    service.machine.run("systemd-run", "--quiet", "--unit=worker", "--uid=member", "sleep", "infinity")
    try:
        pid = service.machine.show("worker", "MainPID")["MainPID"]
        hold = ("lease", "hold", "orders", "--session", "owned", "--owner", "pid", "--pid", pid)
        assert service.renewer(*hold, user="member").code == 0
        service.wait_until_held()
        service.signal("SIGKILL")
        service.wait_until_active(restarts=1)
        service.wait_until_held()
    finally:
        service.machine.run("systemctl", "stop", "worker")
    until(lambda: '"reason": "owner_gone"' in service.journal(), what=service.journal)
    assert service.broker()["sessions_held"] == 0


def test_secrets_are_for_the_daemon_alone(service: Service) -> None:
    service.configure(CONFIG + SESSION.format("secret"))
    service.start()
    service.wait_until_held()
    for user in ("member", "outsider"):
        assert service.machine.run_as(user, "cat", f"{CREDENTIALS}/renewer_servicebus", check=False).code != 0
        assert service.machine.run_as(user, "ls", "/etc/renewer", check=False).code == (0 if user == "member" else 2)
        assert service.machine.run_as(user, "ls", "/etc/renewer/credentials", check=False).code != 0
    environment = service.machine.path(f"/proc/{service.show('MainPID')}/environ").read_text()
    shown = service.machine.run("systemctl", "show", UNIT).out
    for text in (environment, shown, service.journal()):
        assert KEY not in text
    looked = service.renewer("doctor", "-c", "/etc/renewer/config.toml", "-o", "json", check=False)
    found = [check for check in json.loads(looked.out)["checks"] if check["subject"] == "secrets"]
    assert [check["verdict"] for check in found] == ["ok", "ok"], found


def test_a_reload_takes_up_what_was_changed(service: Service) -> None:
    service.start()
    pid = service.show("MainPID")
    service.configure(CONFIG + SESSION.format("reload"))
    service.machine.run("systemctl", "reload", UNIT)
    service.wait_until_held()
    assert service.show("MainPID") == pid


def test_a_reload_with_mistakes_changes_nothing_and_is_told(service: Service) -> None:
    service.configure(CONFIG + SESSION.format("mistake"))
    service.start()
    service.wait_until_held()
    service.configure(CONFIG + '[[session]]\nentyti = "orders"\n')
    service.machine.run("systemctl", "reload", UNIT)
    until(lambda: "has mistakes" in service.show("StatusText"), what=service.journal)
    assert "entyti" in service.journal()
    assert service.ask("status")["leases"] == {"held": 1}
    assert service.show("ActiveState") == "active"


def test_a_daemon_that_hangs_is_started_anew(service: Service) -> None:
    service.configure(CONFIG + SESSION.format("hang"))
    service.drop_in("[Service]\nWatchdogSec=2s\n")
    service.start()
    service.wait_until_held()
    service.signal("SIGSTOP")
    service.wait_until_active(restarts=1)
    service.wait_until_held()
    assert "Watchdog timeout" in service.journal()


def test_after_a_crash_operations_go_on_and_sessions_are_held_again(service: Service) -> None:
    service.emulator("PUT", "/scenarios/a-while", {"running_s": 4.0, "retry_after": 1})
    service.emulator("POST", "/scripts", {"scenario": "a-while", "times": 1})
    service.configure(CONFIG + SESSION.format("crash"))
    service.start()
    service.wait_until_held()
    operation = service.ask("op", "submit", "POST", "/workspaces/w/notebooks", "-d", '{"displayName": "n"}')["id"]
    service.signal("SIGKILL")
    service.wait_until_active(restarts=1)
    ended = service.ask("op", "wait", operation)
    assert (ended[0] if isinstance(ended, list) else ended)["state"] == "succeeded"
    assert "displayName" in service.renewer("op", "result", operation).out
    service.wait_until_held()
    assert [lease["epoch"] for lease in service.ask("lease", "ls")] == [2]


def test_a_stop_gives_every_session_back(service: Service) -> None:
    service.configure(CONFIG + "".join(SESSION.format(f"stop-{number}") for number in range(20)))
    service.start()
    service.wait_until_held(20)
    before = service.broker()
    assert before["sessions_held"] == 20
    service.stop()
    after = service.broker()
    assert (after["sessions_held"], after["locks_expired"]) == (0, before["locks_expired"])
    assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")
    assert not service.machine.path("/run/renewer").exists()
    service.start()
    service.wait_until_held(20)
    assert service.ask("status")["losses"] == 0


def test_a_second_daemon_by_hand_leaves_the_first_one_alone(service: Service) -> None:
    service.start()
    run = (RENEWER, "run", "--set", "metrics.listen=off", "--set", f"api.listen=unix:{SOCKET}", "--set")
    second = service.machine.run_as("renewer", *run, "daemon.state_dir=/tmp/second", check=False)
    assert second.code == 73
    assert "another daemon is listening there" in second.err
    run = (RENEWER, "run", "--set", "metrics.listen=off", "--set", "api.listen=unix:/tmp/second.sock", "--set")
    second = service.machine.run_as("renewer", *run, f"daemon.state_dir={STATE}", check=False)
    assert second.code == 73
    assert "another renewer" in second.err
    assert service.renewer("health").code == 0


def test_a_gateway_takes_its_key_from_the_credentials(service: Service) -> None:
    key = "/etc/renewer/credentials/gateway"
    service.renewer("gateway", "key", key)
    gateway = f'[[gateway.key]]\nname = "local"\nkey_file = "{CREDENTIALS}/renewer_gateway"\nentities = ["orders"]\n'
    service.configure(f'{CONFIG}[[gateway]]\nlisten = "127.0.0.1:5673"\n{gateway}')
    service.start()
    told = service.renewer("gateway", "connection-string", "-c", "/etc/renewer/config.toml")
    made = service.machine.path(key)
    assert f"127.0.0.1:5673;SharedAccessKeyName=local;SharedAccessKey={made.read_text()};" in told.out
    found = json.loads(service.renewer("doctor", "-c", "/etc/renewer/config.toml", "-o", "json", check=False).out)
    assert "lets workers in to orders" in str(found)
    made.unlink()
