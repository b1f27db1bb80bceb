"""The commands that talk to a daemon: what they ask for, what they print, how they end."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from renewer.cli.exitcodes import ExitCode
from tests.cli.conftest import Run
from tests.client.standin import StandIn, problem

GONE = JSONResponse({"state": "draining", "leases": {"released": 3}})


def asked(daemon: StandIn, method: str, path: str) -> Any:
    return daemon.requests(method, path)[-1]


def give_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_status_is_shown_to_people_and_to_programs(run: Run, daemon: StandIn) -> None:
    answer = run("status")
    assert answer.code == 0
    assert "ready" in answer.out
    assert "1 held" in answer.out
    assert run("status", "-o", "json").json["leases"] == {"held": 1}


def test_a_session_is_held_looked_at_renewed_and_released(run: Run, daemon: StandIn) -> None:
    held = run("lease", "hold", "orders", "--session", "customer-42", "--label", "team=billing", "--max-duration", "1h")
    assert held.code == 0
    assert "renewer lease release lease-1" in held.err
    body = asked(daemon, "POST", "/v1/leases").json
    assert (body["entity"], body["session_id"]) == ("orders", "customer-42")
    assert (body["labels"], body["max_duration"]) == ({"team": "billing"}, 3600)
    assert "owner" not in body
    listed = run("lease", "ls")
    assert listed.out.splitlines()[1].split()[:4] == ["lease-1", "held", "orders", "customer-42"]
    assert run("lease", "get", "lease-1", "-o", "json").json["of_the_future"] is True
    assert run("lease", "renew", "lease-1").code == 0
    assert run("lease", "release", "lease-1").code == 0
    assert "released" in run("lease", "get", "lease-1").out
    assert run("lease", "release", "--forget", "lease-1").code == 0
    assert run("lease", "get", "lease-1").code == ExitCode.NOT_FOUND


def test_every_page_of_a_list_is_read(run: Run, daemon: StandIn) -> None:
    for number in range(5):
        assert run("lease", "hold", "orders", "--session", str(number)).code == 0
    daemon.page = 2
    assert [lease["session_id"] for lease in run("lease", "ls", "-o", "json").json] == ["0", "1", "2", "3", "4"]
    assert len(run("lease", "ls", "-o", "json", "--limit", "3").json) == 3
    assert len(run("lease", "ls", "--state", "held").out.splitlines()) == 6


def test_leases_nearest_to_expiry_are_asked_for_in_one_page(run: Run, daemon: StandIn) -> None:
    assert run("lease", "ls", "--sort", "remaining", "--label", "a=b", "--session", "s").code == 0
    wanted = {("label", "a:b"), ("session_id", "s")}
    living, ended = (set(seen.query) for seen in daemon.requests("GET", "/v1/leases"))
    assert living == {("state", "living"), ("sort", "remaining"), ("limit", "100")} | wanted
    assert ended == {("state", "ended"), ("limit", "1000")} | wanted


def test_an_empty_list_says_what_to_do_and_is_an_empty_document(run: Run, daemon: StandIn) -> None:
    assert "renewer lease hold" in run("lease", "ls").err
    assert run("lease", "ls", "-o", "json").json == []
    assert "renewer op submit" in run("op", "ls").err


def test_a_session_that_is_not_had_in_time_is_75_and_the_daemon_goes_on(run: Run, daemon: StandIn) -> None:
    daemon.grants = False
    answer = run("lease", "hold", "orders", "--session", "s", "--wait", "50ms")
    assert answer.code == ExitCode.TRY_AGAIN
    assert "renewer lease get lease-1" in answer.err
    assert daemon.only_lease()["state"] == "acquiring"


def test_owners_are_told_to_the_daemon(run: Run, daemon: StandIn) -> None:
    run("lease", "hold", "orders", "--session", "a", "--owner", "pid")
    run("lease", "hold", "orders", "--session", "b", "--owner", "heartbeat", "--ttl", "5s")
    first, second = (seen.json["owner"] for seen in daemon.requests("POST", "/v1/leases"))
    assert first == {"kind": "pid", "pid": os.getppid()}
    assert second == {"kind": "heartbeat", "ttl": 5.0}
    assert run("lease", "heartbeat", "lease-2").code == 0
    refused = run("lease", "heartbeat", "lease-1")
    assert refused.code == ExitCode.FAILED
    assert "lease-1: takes no heartbeats, its owner is pid: hold it with `--owner heartbeat`" in refused.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["lease", "hold", "q", "--pid", "1"],
        ["lease", "hold", "q", "--ttl", "1s"],
        ["lease", "hold", "q", "--watch", "--owner", "pid"],
        ["lease", "hold", "q", "--watch", "--idempotency-key", "k"],
        ["lease", "hold", "q", "--wait", "soon"],
        ["lease", "hold", "q", "--label", "x"],
        ["op", "adopt", "--url", "https://x"],
        ["op", "adopt", "--url", "https://x", "a", "--from", "b"],
        ["op", "adopt", "--url", "https://x", "a", "--status", "202"],
        ["op", "submit", "POST", "/x", "-H", "nocolon"],
        ["exec", "--entity", "q", "--on-lost", "cry", "--", "true"],
        ["drain", "--park", "--off"],
        ["lease", "ls", "--state", "foo"],
        ["lease", "ls", "--kind", "foo"],
        ["lease", "ls", "--state", "held", "--all"],
        ["op", "ls", "--state", "held"],
        ["events", "--after", "bogus"],
        ["events", "--type", "foo"],
        ["top", "-o", "json"],
        ["nope"],
        ["lease", "nope"],
        ["lease", "get"],
        ["lease", "ls", "--nope"],
        ["lease", "ls", "--sort", "foo"],
        ["op", "result", "op-1", "-o", "json"],
        ["exec", "--entity", "q", "-o", "json", "--", "true"],
    ],
)
def test_what_makes_no_sense_is_wrong_usage_and_asks_the_daemon_for_nothing(
    run: Run, daemon: StandIn, arguments: list[str]
) -> None:
    answer = run(*arguments)
    assert answer.code == ExitCode.USAGE
    assert answer.err.startswith("renewer: ")
    assert answer.err.count("\n") == 1
    assert "Value error" not in answer.err
    assert daemon.seen == []


@pytest.mark.parametrize("group", [[], ["lease"], ["op"], ["config"]])
def test_a_command_without_anything_shows_the_help_and_is_wrong_usage(run: Run, group: list[str]) -> None:
    answer = run(*group)
    assert answer.code == ExitCode.USAGE
    assert "Usage" in answer.out + answer.err


def test_a_watched_lease_is_told_until_its_end(run: Run, daemon: StandIn) -> None:
    run("lease", "hold", "orders", "--session", "s")
    daemon.answers["GET", "/v1/leases/lease-1/events"] = Response(
        b'event: snapshot\ndata: {"id": "lease-1", "state": "held", "entity": "orders", "session_id": "s"}\n\n'
        b'id: 1-1\nevent: lease.lost\ndata: {"id": "1-1", "type": "lease.lost", "time": "2026-11-22T12:00:00Z", '
        b'"subject": "lease-1", "data": {"entity": "orders", "session_id": "s", "reason": "detached", '
        b'"final": true}}\n\n',
        media_type="text/event-stream",
    )
    answer = run("lease", "watch", "lease-1")
    assert answer.code == ExitCode.FAILED
    assert answer.out.splitlines()[1].split() == [
        "12:00:00Z", "lease.lost", "lease-1", "orders/s", "detached", "for", "good",
    ]  # fmt: skip
    told = run("lease", "watch", "lease-1", "-o", "json").out.splitlines()
    assert len(told) == 2
    assert '"type": "lease.lost"' in told[1]


def test_an_operation_is_submitted_waited_for_and_read(run: Run, daemon: StandIn, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"displayName": "n"}')
    begun = run("op", "submit", "post", "/notebooks", "-d", f"@{body}", "-H", "X-A: b", "--deadline", "1h")
    assert begun.code == 0
    assert "renewer op wait op-1" in begun.err
    sent = asked(daemon, "POST", "/v1/operations").json
    assert sent["submit"] == {
        "method": "POST", "url": "/notebooks", "headers": {"X-A": "b"}, "body": {"displayName": "n"},
    }  # fmt: skip
    assert sent["deadline"] == 3600
    early = run("op", "result", "op-1")
    assert early.code == ExitCode.TRY_AGAIN
    assert "renewer op wait op-1" in early.err
    assert run("op", "wait", "op-1", "--timeout", "50ms").code == ExitCode.TRY_AGAIN
    daemon.results["op-1"] = ("application/octet-stream", b"\x00\xff\n")
    daemon.end_operation("op-1")
    assert run("op", "wait", "op-1").code == 0
    out = tmp_path / "result"
    assert run("op", "result", "op-1", "-O", str(out)).code == 0
    assert out.read_bytes() == b"\x00\xff\n"
    assert run("op", "result", "op-1", "-O", str(tmp_path / "no" / "way")).code == ExitCode.CANNOT_CREATE
    assert run("op", "ls", "--all", "-o", "json").json[0]["state"] == "succeeded"
    assert run("op", "forget", "op-1").code == 0
    assert run("op", "get", "op-1").code == ExitCode.NOT_FOUND


def test_how_an_operation_is_to_be_followed_is_told_to_the_daemon(run: Run, daemon: StandIn) -> None:
    terms = (
        *("--protocol", "azure-async-operation", "--final-state-via", "location", "--poll-query", "api-version=1"),
        *("--poll-query", "a=b=c", "--poll-header", "X-A: b: c", "--poll-header", "X-B:", "--early-probe", "2s"),
    )
    told = {
        "protocol": "azure-async-operation",
        "final_state_via": "location",
        "poll_query": {"api-version": "1", "a": "b=c"},
        "poll_headers": {"X-A": "b: c", "X-B": ""},
        "early_probe": 2.0,
        "deadline": 60.0,
    }
    assert run("op", "submit", "PUT", "/x", *terms, "--deadline", "1m").code == 0
    assert told.items() <= asked(daemon, "POST", "/v1/operations").json.items()
    assert run("op", "adopt", "--url", "/x", "--status", "202", *terms, "--deadline", "1m").code == 0
    assert told.items() <= asked(daemon, "POST", "/v1/operations").json.items()
    assert run("op", "submit", "PUT", "/x", "--early-probe", "off").code == 0
    assert asked(daemon, "POST", "/v1/operations").json["early_probe"] == 0
    assert run("op", "submit", "PUT", "/x").code == 0
    assert asked(daemon, "POST", "/v1/operations").json.keys() == {"submit"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--protocol", "polling"), ("--protocol polling", "azure-async-operation")),
        (("--final-state-via", "Location"), ("--final-state-via Location", "original-uri")),
        (("--poll-query", "secret"), ("--poll-query", "NAME=VALUE")),
        (("--poll-header", "secret"), ("--poll-header", "NAME: VALUE")),
        (("--early-probe", "soon"), ("--early-probe soon", "duration")),
    ],
)
def test_terms_that_make_no_sense_are_wrong_usage(
    run: Run, daemon: StandIn, given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    answer = run("op", "submit", "PUT", "/x", *given)
    assert answer.code == ExitCode.USAGE
    assert all(word in answer.err for word in words)
    assert "secret" not in answer.err
    assert not daemon.seen


def test_an_operation_shows_what_its_service_tells_and_what_it_waits_for(run: Run, daemon: StandIn) -> None:
    daemon.add_operation(
        "op-1",
        service_started_at="2026-01-01T00:00:00Z",
        limited_by="fabric.main jobs",
        next_poll_at=None,
    )
    shown = " ".join(run("op", "get", "op-1").out.split())
    assert "2026-01-01 00:00:00Z" in shown
    assert "next poll waits for the quota fabric.main jobs polls" in shown
    assert "quota" in run("op", "ls").out
    daemon.add_operation("op-2", limited_by="fabric.main jobs", ended_at="2026-01-01T00:00:00Z")
    assert "quota" not in run("op", "get", "op-2").out


def test_an_operation_that_failed_is_1_for_whoever_waits(run: Run, daemon: StandIn) -> None:
    daemon.add_operation("op-1", state="failed", error={"errorCode": "Broken", "message": "it broke"})
    daemon.add_operation("op-2", state="succeeded")
    daemon.add_operation("op-3")
    answer = run("op", "wait", "op-1", "op-2")
    assert answer.code == ExitCode.FAILED
    assert "Broken: it broke" in answer.out
    assert run("op", "wait", "op-2", "op-3", "--any").code == 0
    assert run("op", "wait", "op-2", "op-9").code == ExitCode.NOT_FOUND


def test_a_success_without_a_result_writes_nothing(run: Run, daemon: StandIn) -> None:
    daemon.add_operation("op-1", state="succeeded")
    answer = run("op", "result", "op-1")
    assert (answer.code, answer.out) == (0, "")
    assert "no result" in answer.err


def test_cancelling_shows_what_became_of_it(run: Run, daemon: StandIn) -> None:
    daemon.add_operation("op-1")
    assert "canceled" in run("op", "cancel", "op-1").out


def test_an_answer_from_curl_is_adopted(run: Run, daemon: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    give_stdin(monkeypatch, b"HTTP/2 202 \r\nlocation: https://x/operations/1\r\nretry-after: 5\r\n\r\n")
    assert run("op", "adopt", "--url", "https://x/notebooks", "-").code == 0
    assert asked(daemon, "POST", "/v1/operations").json["adopt"] == {
        "method": "POST",
        "url": "https://x/notebooks",
        "status": 202,
        "headers": {"location": "https://x/operations/1", "retry-after": "5"},
    }


def test_an_answer_is_adopted_piece_by_piece(run: Run, daemon: StandIn) -> None:
    pieces = ["--status", "202", "-H", "Location: https://x/1", "--body", "not json"]
    assert run("op", "adopt", "--url", "https://x", *pieces).code == 0
    adopted = asked(daemon, "POST", "/v1/operations").json["adopt"]
    assert (adopted["status"], adopted["headers"], adopted["body"]) == (202, {"Location": "https://x/1"}, "not json")


def test_input_that_cannot_be_used_is_told_by_kind(run: Run, daemon: StandIn, tmp_path: Path) -> None:
    assert run("op", "submit", "POST", "/x", "-d", "{").code == ExitCode.DATA
    assert run("op", "submit", "POST", "/x", "-d", "@none").code == ExitCode.NOT_FOUND
    assert run("op", "adopt", "--url", "https://x", str(tmp_path)).code == ExitCode.IO


def test_forgetting_takes_ids_of_the_right_kind_alone(run: Run, daemon: StandIn) -> None:
    run("lease", "hold", "orders", "--session", "s")
    daemon.add_operation("op-1")
    assert run("op", "forget", "lease-1").code == ExitCode.NOT_FOUND
    assert run("lease", "release", "--forget", "op-1").code == ExitCode.NOT_FOUND
    assert daemon.only_lease()["state"] == "held"
    assert "op-1" in daemon.operations


def test_draining_waits_until_nothing_is_held(run: Run, daemon: StandIn) -> None:
    left = run("drain", "--wait", "50ms")
    assert left.code == ExitCode.TRY_AGAIN
    assert "1 lease left" in left.err
    assert "--park" in left.err
    refused = run("lease", "hold", "orders")
    assert refused.code == ExitCode.TRY_AGAIN
    assert "draining; try again in 7.0 s" in refused.err
    daemon.answers["GET", "/v1/status"] = GONE
    assert run("drain", "--park").code == 0
    assert asked(daemon, "POST", "/v1/drain").json == {"enabled": True, "park": True}
    assert run("drain", "--off").code == 0
    assert asked(daemon, "POST", "/v1/drain").json["enabled"] is False


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 64), (403, 77), (404, 66), (409, 1), (429, 75), (500, 70), (503, 75), (504, 75)],
)
def test_every_refusal_of_the_daemon_is_one_line_with_its_exit_code(
    run: Run, daemon: StandIn, status: int, code: int
) -> None:
    daemon.answers["GET", "/v1/leases/x"] = problem(status, "because of\x1b[2J this")
    answer = run("lease", "get", "x")
    assert answer.code == code
    assert answer.err.count("\n") == 1
    assert "\x1b" not in answer.err


@pytest.mark.parametrize(
    "answer",
    [
        Response(b"<html>", media_type="text/html"),
        Response(b"Forbidden", 403),
        Response(b"no", 401),
        JSONResponse({"detail": "Not Found"}, 404),
        Response(b"", 502),
        Response(status_code=302, headers={"Location": "/login"}),
    ],
)
def test_what_is_no_renewer_is_told_as_such(run: Run, daemon: StandIn, answer: Response) -> None:
    daemon.answers["GET", "/v1/status"] = answer
    told = run("status")
    assert told.code == ExitCode.UNAVAILABLE
    assert "something else answers there, not renewer" in told.err


def test_without_a_key_and_with_a_wrong_one_it_is_said_which(
    run: Run, daemon: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.answers["GET", "/v1/status"] = problem(401, "the key is missing")
    assert run("status").err == "renewer: no key given: set RENEWER_API_KEY or --api-key-file\n"
    monkeypatch.setenv("RENEWER_API_KEY", "wrong-one")
    answer = run("status")
    assert answer.code == ExitCode.NO_PERMISSION
    assert "this key is not the daemon's" in answer.err
    assert "wrong-one" not in answer.err
