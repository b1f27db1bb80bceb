"""`renewer lease receive`, `peek`, `messages`, and settling what was received."""

from __future__ import annotations

import json

import pytest
from starlette.responses import Response

from renewer.cli.exitcodes import ExitCode
from renewer.messages import DataBody, SequenceBody, UnreadableBody, ValueBody
from renewer.messages import ReceivedMessage as Told
from tests.cli.conftest import Run
from tests.client.standin import StandIn, problem
from tests.client.test_client_messages import message, shown

WAYS = ["complete", "abandon", "defer", "dead-letter"]


@pytest.fixture
def lease(run: Run, daemon: StandIn) -> str:
    assert run("lease", "hold", "orders", "--session", "c").code == 0
    return "lease-1"


def test_messages_are_received_and_shown(run: Run, daemon: StandIn, lease: str) -> None:
    daemon.bring(message(7, "grüße\x1b[2J", subject="sub", message_id="m-1", delivery_count=2), message(8))
    answer = run("lease", "receive", lease, "--wait", "5s")
    assert answer.code == 0
    head, line = answer.out.splitlines()
    assert head.split() == ["NUMBER", "HANDLE", "FAILED", "ID", "SUBJECT", "BODY"]
    assert line.split()[:5] == ["7", "1.7", "2", "m-1", "sub"]
    assert "grüße\\u001b[2J" in line
    (found,) = run("lease", "receive", lease, "--max", "3", "-o", "json").json
    assert (found["handle"], found["body"]) == ("1.8", {"kind": "data", "base64": "aGVsbG8="})
    asked = daemon.requests("POST", f"/v1/leases/{lease}/receive")
    assert [(seen.json, seen.query) for seen in asked] == [
        ({"max": 1}, [("wait", "5.000")]),
        ({"max": 3}, [("wait", "30.000")]),
    ]


def test_every_body_has_a_line(run: Run, daemon: StandIn, lease: str) -> None:
    daemon.bring(
        *(
            shown(Told(f"1.{number}", body, sequence_number=number))
            for number, body in enumerate(
                [
                    None,
                    DataBody((b"\xff\x00",)),
                    DataBody((b"x" * 300,)),
                    ValueBody(7),
                    SequenceBody(([1], [2])),
                    UnreadableBody(b"\xff", "why"),
                ]
            )
        )
    )
    lines = run("lease", "receive", lease, "--max", "10").out.splitlines()[1:]
    assert [line[len("     0  1.0") :].strip() for line in lines] == [
        "",
        "(2 B)",
        "x" * 199 + "…",
        "7",
        "[1, 2]",
        "(cannot be read: why)",
    ]


def test_no_message_in_time_is_told(run: Run, daemon: StandIn, lease: str) -> None:
    for given, said in (("0", "no message now"), ("10ms", "no message came in 10 ms")):
        answer = run("lease", "receive", lease, "--wait", given, "-o", "json")
        assert (answer.code, answer.json) == (ExitCode.TRY_AGAIN, [])
        assert said in answer.err


def test_deferred_messages_are_received_by_number(run: Run, daemon: StandIn, lease: str) -> None:
    daemon.bring(message(7), message(8))
    assert len(run("lease", "receive", lease, "--deferred", "7", "--deferred", "8", "-o", "json").json) == 2
    (seen,) = daemon.requests("POST", f"/v1/leases/{lease}/receive-deferred")
    assert seen.json == {"sequence_numbers": [7, 8]}
    answer = run("lease", "receive", lease, "--deferred", "9")
    assert (answer.code, "not all" in answer.err) == (ExitCode.FAILED, True)
    assert run("lease", "receive", lease, "--deferred", "9", "--wait", "1s").code == ExitCode.USAGE


def test_messages_are_looked_at(run: Run, daemon: StandIn, lease: str) -> None:
    daemon.bring(message(7, state="deferred"), message(8))
    answer = run("lease", "peek", lease)
    assert [line.split()[0] for line in answer.out.splitlines()] == ["NUMBER", "7", "8"]
    assert "deferred" in answer.out
    assert len(run("lease", "peek", lease, "--max", "1", "--from", "5", "-o", "json").json) == 1
    assert daemon.requests("GET", f"/v1/leases/{lease}/peek")[1].query == [("max", "1"), ("from", "5")]
    daemon.messages.clear()
    assert "no message" in run("lease", "peek", lease).err


@pytest.mark.parametrize("way", WAYS)
def test_a_message_is_settled_by_its_handle(run: Run, daemon: StandIn, lease: str, way: str) -> None:
    daemon.bring(message(7), message(8))
    assert run("lease", "receive", lease, "--max", "2").code == 0
    flying = run("lease", "messages", lease)
    assert [line.split()[0] for line in flying.out.splitlines()] == ["HANDLE", "1.7", "1.8"]
    answer = run("lease", way, lease, "1.7")
    assert (answer.code, answer.out) == (0, "")
    assert daemon.settled == [("1.7", way, {})]
    assert [one["handle"] for one in run("lease", "messages", lease, "-o", "json").json] == ["1.8"]
    assert run("lease", way, lease, "1.7").code == ExitCode.NOT_FOUND
    assert run("lease", way, lease, "1.8").code == 0
    assert "no message is in flight" in run("lease", "messages", lease).err


def test_a_message_is_settled_with_what_goes_with_it(run: Run, daemon: StandIn, lease: str) -> None:
    daemon.bring(message(7), message(8), message(9))
    assert run("lease", "receive", lease, "--max", "3").code == 0
    why = ("--reason", "poison", "--description", "it breaks", "--property", "tries:=3")
    assert run("lease", "dead-letter", lease, "1.7", *why).code == 0
    assert run("lease", "abandon", lease, "1.8", "--property", "by=me").code == 0
    assert run("lease", "defer", lease, "1.9", "--property", "by=me").code == 0
    assert [body for _, _, body in daemon.settled] == [
        {"reason": "poison", "description": "it breaks", "properties": {"tries": 3}},
        {"properties": {"by": "me"}},
        {"properties": {"by": "me"}},
    ]


def test_how_it_ends_says_what_became_of_the_message(run: Run, daemon: StandIn, lease: str) -> None:
    path = ("POST", f"/v1/leases/{lease}/messages/1.1/complete")
    for answer, code in (
        (problem(409, "it will be delivered again", extra={"state": "lost", "reason": "expired"}), ExitCode.FAILED),
        (problem(409, "it is settled", extra={"state": "settled", "settled": "deferred"}), ExitCode.FAILED),
        (problem(504, "nobody knows", extra={"outcome": "unknown"}), ExitCode.TRY_AGAIN),
    ):
        daemon.answers[path] = answer
        ended = run("lease", "complete", lease, "1.1")
        assert ended.code == code
        assert json_detail(answer) in ended.err
    daemon.tell(lease, "lease.lost", reason="expired")
    assert run("lease", "receive", lease, "--wait", "0").code == ExitCode.FAILED


def json_detail(answer: Response) -> str:
    return str(json.loads(bytes(answer.body))["detail"])
