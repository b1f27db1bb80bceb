"""`renewer lease hold`, where the session is not simply there for the taking; and what lists show of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from renewer.cli.exitcodes import ExitCode
from tests.cli.conftest import Run
from tests.client.standin import StandIn, problem

LEASE = "/v1/leases/lease-1"


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize("watched", [[], ["--watch"]])
def test_a_session_that_can_never_be_had_is_69_with_the_reason_and_no_lease_is_left(
    run: Run, daemon: StandIn, watched: list[str]
) -> None:
    daemon.refuses = 1
    answer = run("lease", "hold", "orders", "--session", "s", *watched)
    assert answer.code == ExitCode.UNAVAILABLE
    assert answer.err == "renewer: session 's' of orders cannot be had: no sessions here\n"
    assert daemon.leases == {}


def test_the_word_of_the_broker_ends_the_wait_though_the_daemon_would_try_again(run: Run, daemon: StandIn) -> None:
    daemon.grants = False
    over = threading.Event()

    def refuse() -> None:
        daemon.until(lambda: bool(daemon.requests("GET", f"{LEASE}/events")))
        # The stream takes its place among those who are told a moment after it was asked for.
        while not over.wait(0.02):
            if "lease-1" in daemon.leases:
                daemon.tell("lease-1", "lease.acquire_failed", failure="entity_gone", detail="there is no such queue")

    with meanwhile(refuse):
        answer = run("lease", "hold", "orders", "--session", "s", "--wait", "60s")
        over.set()
    assert answer.code == ExitCode.UNAVAILABLE
    assert answer.err == "renewer: session 's' of orders cannot be had: there is no such queue\n"
    assert daemon.leases == {}


def test_a_session_that_is_granted_later_is_waited_for(run: Run, daemon: StandIn) -> None:
    daemon.grants = False

    def grant() -> None:
        daemon.until(lambda: bool(daemon.requests("GET", f"{LEASE}/events")))
        daemon.tell("lease-1", "lease.acquired")

    with meanwhile(grant):
        answer = run("lease", "hold", "orders", "--session", "s", "--wait", "3s")
    assert (answer.code, "renewer: held; " in answer.err) == (0, True)


def test_a_session_that_another_lease_keeps_is_75_and_says_which(run: Run, daemon: StandIn) -> None:
    run("lease", "hold", "orders", "--session", "s", "--owner", "heartbeat")
    answer = run("lease", "hold", "orders", "--session", "s")
    assert answer.code == ExitCode.TRY_AGAIN
    for part in ("kept already, by lease-1 (owner heartbeat", "--wait 1m", "renewer lease release lease-1"):
        assert part in answer.err
    again = run("lease", "hold", "orders", "--session", "s", "--wait", "10ms")
    assert again.code == ExitCode.TRY_AGAIN
    assert "wait longer" in again.err


def test_a_session_that_another_lease_keeps_is_waited_for_where_one_wants_to(run: Run, daemon: StandIn) -> None:
    run("lease", "hold", "orders", "--session", "s", "--owner", "heartbeat")

    def give_back() -> None:
        daemon.until(lambda: any(("until", "over") in seen.query for seen in daemon.requests("GET", LEASE)))
        daemon.tell("lease-1", "lease.released")

    with meanwhile(give_back):
        answer = run("lease", "hold", "orders", "--session", "s", "--wait", "30s")
    assert answer.code == 0
    assert "waiting for that to end" in answer.err
    assert daemon.leases["lease-2"]["state"] == "held"


def test_a_session_that_is_held_by_the_same_wish_is_found_again(run: Run, daemon: StandIn) -> None:
    run("lease", "hold", "orders", "--session", "s")
    long_ago = (datetime.now(UTC) - timedelta(seconds=90)).isoformat()
    daemon.change("lease-1", registered_at=long_ago, acquired_at=long_ago)
    answer = run("lease", "hold", "orders", "--session", "s")
    assert answer.code == 0
    assert "held already since 1 m 3" in answer.err


def test_only_the_living_are_listed_and_the_others_counted(run: Run, daemon: StandIn) -> None:
    for number in range(3):
        run("lease", "hold", "orders", "--session", str(number))
        daemon.add_operation(f"op-{number}", state="failed" if number else "running")
    daemon.page = 10
    run("lease", "release", "lease-1", "lease-2")
    listed = run("lease", "ls")
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == ["lease-3"]
    assert listed.err == "renewer: 2 ended: --all shows them\n"
    assert len(run("lease", "ls", "--all", "-o", "json").json) == 3
    assert len(run("lease", "ls", "--state", "released", "-o", "json").json) == 2
    listed = run("op", "ls")
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == ["op-0"]
    assert "2 ended" in listed.err
    assert len(run("op", "ls", "--all", "-o", "json").json) == 3


def test_a_parked_lease_is_shown_with_what_will_have_it_held_again(run: Run, daemon: StandIn) -> None:
    run("lease", "hold", "orders", "--session", "s")
    daemon.tell("lease-1", "lease.parked")
    listed = run("lease", "ls")
    assert listed.out.splitlines()[1].split()[1] == "parked"
    assert "renewer drain --off" in listed.err
    assert "renewer drain --off" in run("lease", "get", "lease-1").out
    assert "parked" in run("top", "--once").out
    daemon.answers["POST", f"{LEASE}/renew"] = problem(409, "the lease is acquiring, not held")
    assert "renewer drain --off" in run("lease", "renew", "lease-1").err


def test_several_ids_are_all_tried_and_each_bad_one_is_told(run: Run, daemon: StandIn) -> None:
    for number in range(2):
        run("lease", "hold", "orders", "--session", str(number))
        daemon.add_operation(f"op-{number}")
    answer = run("lease", "release", "lease-9", "lease-1", "x", "lease-2", "-o", "json")
    assert (answer.code, answer.json) == (ExitCode.NOT_FOUND, {"released": ["lease-1", "lease-2"]})
    assert answer.err.splitlines() == [
        "renewer: lease-9: not known; `renewer lease ls` lists leases",
        "renewer: x: not known; `renewer lease ls` lists leases",
    ]
    answer = run("op", "forget", "lease-1", "op-9", "op-0")
    assert answer.code == ExitCode.NOT_FOUND
    assert "lease-1: not the id of an operation" in answer.err
    assert set(daemon.operations) == {"op-1"}
    daemon.answers["DELETE", LEASE] = problem(429, "too much")
    answer = run("lease", "release", "x", "lease-1")
    assert answer.code == ExitCode.TRY_AGAIN
    assert "lease-1: too much" in answer.err


def test_a_lease_that_is_not_held_yet_is_not_renewed_and_one_is_told_to_wait(run: Run, daemon: StandIn) -> None:
    daemon.grants = False
    run("lease", "hold", "orders", "--session", "s", "--wait", "0")
    daemon.answers["POST", f"{LEASE}/renew"] = problem(409, "the lease is acquiring, not held")
    answer = run("lease", "renew", "lease-1")
    assert answer.code == ExitCode.FAILED
    assert "renewer lease get lease-1 --wait 30s" in answer.err


def test_an_operation_that_failed_has_no_result_and_one_is_told_where_to_look(run: Run, daemon: StandIn) -> None:
    daemon.add_operation("op-1", state="failed")
    daemon.answers["GET", "/v1/operations/op-1/result"] = problem(409, "the operation ended as failed")
    answer = run("op", "result", "op-1")
    assert answer.code == ExitCode.FAILED
    assert "`renewer op get op-1` tells why" in answer.err


def test_callbacks_are_told_to_the_daemon(run: Run, daemon: StandIn) -> None:
    run("lease", "hold", "orders", "--session", "a", "--callback", "https://x/y")
    run("op", "submit", "POST", "/x", "--callback", "https://x/y")
    for path in ("/v1/leases", "/v1/operations"):
        assert daemon.requests("POST", path)[-1].json["callback"] == "https://x/y"
