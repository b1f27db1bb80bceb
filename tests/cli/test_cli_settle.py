"""`renewer lease complete`, `abandon`, `defer` and `dead-letter`: what they ask for, and how they end."""

from __future__ import annotations

import pytest

from renewer.cli.exitcodes import ExitCode
from renewer.client import Client
from tests.cli.conftest import Run
from tests.client.standin import StandIn, problem

WAYS = {"complete": "completed", "abandon": "abandoned", "defer": "deferred", "dead-letter": "dead-lettered"}


@pytest.fixture
def lease(daemon: StandIn) -> str:
    with Client(daemon.api) as client:
        return client.hold("orders", kind="message", lock_token="0ddba11").id


@pytest.mark.parametrize(("way", "settled"), WAYS.items())
def test_a_message_is_settled_by_its_lease(run: Run, daemon: StandIn, lease: str, way: str, settled: str) -> None:
    answer = run("lease", way, lease)
    assert answer.code == 0
    assert settled in answer.out
    assert run("lease", way, lease, "-o", "json").json["settled"] == settled
    assert run("lease", way, "lease-0").code == ExitCode.NOT_FOUND


def test_properties_are_text_unless_they_are_written_as_json(run: Run, daemon: StandIn, lease: str) -> None:
    given = ["--property", "why=not now=really", "--property", "tries:=3", "--property", "none:=null"]
    given += ["--property", 'size:={"type": "uint", "value": 7}', "--reason", "poison", "--description", "it breaks"]
    assert run("lease", "dead-letter", lease, *given).code == 0
    (seen,) = daemon.requests("POST", f"/v1/leases/{lease}/dead-letter")
    assert seen.json == {
        "reason": "poison",
        "description": "it breaks",
        "properties": {
            "why": "not now=really",
            "tries": 3,
            "none": None,
            "size": {"type": "uint", "value": 7},
        },
    }


@pytest.mark.parametrize("wrong", ["novalue", "=x", ":=3", "a:=nonsense"])
def test_properties_that_cannot_be_read_are_wrong_usage(run: Run, daemon: StandIn, lease: str, wrong: str) -> None:
    answer = run("lease", "abandon", lease, "--property", wrong)
    assert answer.code == ExitCode.USAGE
    assert "--property" in answer.err
    assert daemon.requests("POST", f"/v1/leases/{lease}/abandon") == []


def test_what_came_of_it_is_in_the_exit_code(run: Run, daemon: StandIn, lease: str) -> None:
    path = ("POST", f"/v1/leases/{lease}/complete")
    for status, code in ((504, ExitCode.TRY_AGAIN), (502, ExitCode.TRY_AGAIN), (422, ExitCode.USAGE)):
        daemon.answers[path] = problem(status, "what the broker said")
        answer = run("lease", "complete", lease)
        assert answer.code == code
        assert "what the broker said" in answer.err
    del daemon.answers[path]
    run("lease", "abandon", lease)
    answer = run("lease", "complete", lease)
    assert (answer.code, "settled" in answer.err) == (ExitCode.FAILED, True)
    with Client(daemon.api) as client:
        other = client.hold("orders", kind="message", lock_token="1ddba11").id
    daemon.tell(other, "lease.lost", reason="expired")
    answer = run("lease", "complete", other)
    assert (answer.code, "lost" in answer.err) == (ExitCode.FAILED, True)
