"""renewer.service where memory runs out: the kernel ends it, it is started anew, and its work goes on."""

from __future__ import annotations

import re

import pytest

from tests.deploy.cgroups import is_unified
from tests.deploy.service_rig import CONFIG, UNIT, Service

pytestmark = pytest.mark.deploy

SESSION = '[[session]]\nentity = "orders"\nsession_id = "{}"\n'
LIMIT_MIB = 160


def start_with_little_memory(service: Service, *, sessions: int) -> None:
    if service.machine.no_limits is not None:
        pytest.skip(f"no limit of a unit is kept to here: {service.machine.no_limits}")
    service.configure(CONFIG + "".join(SESSION.format(f"memory-{number}") for number in range(sessions)))
    service.drop_in(f"[Service]\nMemoryMax={LIMIT_MIB}M\nOOMScoreAdjust=0\n")
    service.start()
    service.wait_until_held(sessions)
    assert 0 < int(service.show("MemoryCurrent")) < LIMIT_MIB * 1024**2


def test_a_daemon_that_the_kernel_ends_for_want_of_memory_is_started_anew_and_goes_on(service: Service) -> None:
    service.emulator("PUT", "/scenarios/a-while", {"running_s": 4.0, "retry_after": 1})
    service.emulator("POST", "/scripts", {"scenario": "a-while", "times": 1})
    start_with_little_memory(service, sessions=20)
    operation = service.ask("op", "submit", "POST", "/workspaces/w/notebooks", "-d", '{"displayName": "n"}')["id"]
    before = service.show("MainPID")

    service.exhaust_memory()

    service.wait_until_active(restarts=1)
    assert service.show("MainPID") != before
    assert service.machine.was_out_of_memory(UNIT, "renewer")
    told = service.journal()
    assert re.search(r"Failed with result '(oom-kill|signal)'", told)
    # With control groups of version 1 the manager is not told why, and it counts as any other kill.
    assert ("killed by the OOM killer" in told) == is_unified()
    service.wait_until_held(20)
    ended = service.ask("op", "wait", operation)
    assert (ended[0] if isinstance(ended, list) else ended)["state"] == "succeeded"
    leases = service.ask("lease", "ls")
    assert [(lease["state"], lease["epoch"]) for lease in leases] == [("held", 2)] * 20


def test_what_a_kill_for_want_of_memory_cost_is_told(service: Service) -> None:
    start_with_little_memory(service, sessions=1)
    service.exhaust_memory()
    service.wait_until_active(restarts=1)
    service.wait_until_held()
    told = service.journal()
    assert '"reason": "connection_lost", "detail": "the daemon was started anew"' in told
    assert '"event": "lease reacquired"' in told
    assert service.ask("status")["losses"] == 1
    page = service.get("http://127.0.0.1:9464/metrics").out
    assert re.search(r'^renewer_lease_losses_total\{.*reason="connection_lost".*\} 1\.0$', page, re.MULTILINE), page
