"""What the doctor says of sockets and ports, of limits, and of the daemon that answers there."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import renewer
from renewer.asgi import listen_tcp, listen_unix, serve
from renewer.cli.doctor import doors, limits
from renewer.cli.doctor.findings import Examination, Verdict, ok
from renewer.cli.doctor.running import judge_status
from renewer.config import TcpListen, UnixListen
from renewer.errors import UsageError
from tests.cli.doctor_rig import findings_of, settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


WELL: dict[str, Any] = {
    "version": renewer.__version__,
    "state": "ready",
    "leases": {"held": 3},
    "operations": {},
    "losses": 0,
    "loop_lag_s": 0.001,
    "limits": {"leases": 100, "operations": 100},
    "targets": [],
    "trouble": [],
}


@asynccontextmanager
async def daemon(listener: socket.socket, status: object, code: int = 200) -> AsyncIterator[list[str | None]]:
    """What answers like a daemon; the list gets the Authorization of each request."""
    seen: list[str | None] = []

    async def answer(request: Request) -> Response:
        seen.append(request.headers.get("authorization"))
        return JSONResponse(status, code)

    async def metrics(_request: Request) -> Response:
        return PlainTextResponse('renewer_build_info{version="1"} 1.0\n')

    app = Starlette(routes=[Route("/v1/status", answer), Route("/metrics", metrics)])
    with closing(listener):
        async with anyio.create_task_group() as tasks:
            await tasks.start(serve, app, listener)
            yield seen
            tasks.cancel_scope.cancel()


async def test_without_a_daemon_everything_else_is_looked_at(tmp_path: Path) -> None:
    found = await findings_of(settings(tmp_path), "daemon")
    assert found["socket"].verdict is Verdict.OK
    assert "no daemon runs" in found["status"].seen
    assert {"files", "memory", "clock"} < set(found)


async def test_a_daemon_that_is_well_is_found_well(tmp_path: Path) -> None:
    async with daemon(listen_unix(tmp_path / "api.sock", mode=0o660), WELL):
        found = await findings_of(settings(tmp_path), "daemon")
    assert {found[name].verdict for name in ("socket", "status", "version", "state", "loop", "leases")} == {Verdict.OK}
    assert "0660" in found["socket"].seen
    assert "3 held" in found["leases"].seen


async def test_a_daemon_over_tcp_is_asked_with_the_key_and_the_key_is_not_shown(tmp_path: Path) -> None:
    listener = listen_tcp("127.0.0.1", 0)
    api = {"api": {"listen": f"tcp:127.0.0.1:{listener.getsockname()[1]}", "key": "s3cret"}}
    async with daemon(listener, WELL) as seen:
        found = await findings_of(settings(tmp_path, api), "daemon")
    assert seen == ["Bearer s3cret"]
    assert found["status"].verdict is Verdict.OK
    assert not any("s3cret" in repr(finding) for finding in found.values())


@pytest.mark.parametrize(
    ("status", "code", "words"), [({}, 401, "key"), ({}, 404, "older"), ({}, 500, "log"), (["odd"], 200, "end what")]
)
async def test_something_else_that_answers_is_told_with_what_to_do(
    tmp_path: Path, status: object, code: int, words: str
) -> None:
    async with daemon(listen_unix(tmp_path / "api.sock", mode=0o600), status, code):
        found = await findings_of(settings(tmp_path), "daemon")
    assert found["status"].verdict is Verdict.FAIL
    assert words in f"{found['status'].seen} {found['status'].remedy}"


@pytest.mark.parametrize(
    ("changes", "check", "verdict"),
    [
        ({"version": "0.0.1"}, "version", Verdict.WARN),
        ({"state": "draining"}, "state", Verdict.WARN),
        ({"loop_lag_s": 0.5}, "loop", Verdict.WARN),
        ({"loop_lag_s": 3}, "loop", Verdict.FAIL),
        ({"leases": {"held": 1, "at_risk": 1}}, "leases", Verdict.WARN),
        ({"leases": {"held": 1, "acquiring": 2}}, "leases", Verdict.WARN),
        ({"leases": {"held": 95}}, "leases", Verdict.WARN),
        ({"operations": {"running": 95}}, "leases", Verdict.WARN),
        ({"trouble": ["the registry cannot be written"]}, "trouble 1", Verdict.WARN),
        ({"targets": [{"name": "servicebus.main", "clock_skew_s": -9.0}]}, "clock servicebus.main", Verdict.WARN),
    ],
)
def test_what_the_daemon_says_of_itself_is_judged(changes: dict[str, Any], check: str, verdict: Verdict) -> None:
    outcomes = dict(judge_status(WELL | changes))
    assert outcomes[check].verdict is verdict
    assert outcomes[check].remedy
    assert all(outcome.verdict is Verdict.OK for name, outcome in outcomes.items() if name != check)


@pytest.mark.parametrize("status", [{}, {"leases": 3, "limits": [], "targets": ["x", {}], "trouble": "x"}])
def test_a_status_that_is_odd_breaks_nothing(status: dict[str, Any]) -> None:
    assert len(list(judge_status(status))) == 4


def test_a_socket_that_was_left_behind_is_told_from_one_that_is_used(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with closing(listen_unix(path, mode=0o660)):
        outcome = doors.examine_unix_door(UnixListen(path))
        assert outcome.value is not None
        assert "a daemon listens" in outcome.seen
    outcome = doors.examine_unix_door(UnixListen(path))
    assert (outcome.verdict, outcome.value) == (Verdict.OK, None)
    assert "left behind" in outcome.seen
    path.unlink()
    path.write_text("")
    assert doors.examine_unix_door(UnixListen(path)).verdict is Verdict.FAIL


@pytest.mark.parametrize(("gid", "words"), [(0, "[api] socket_group"), (424_242, "the group 424242")])
def test_who_may_not_use_the_socket_is_never_told_to_join_roots_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gid: int, words: str
) -> None:
    def refuse(_socket: socket.socket, _address: str) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "api.sock"
    with closing(listen_unix(path, mode=0o660)):
        about = path.lstat()
        owned = os.stat_result((*about[:5], gid, *about[6:10]))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "lstat", lambda _path: owned)
            patch.setattr(socket.socket, "connect", refuse)
            outcome = doors.examine_unix_door(UnixListen(path))
    assert outcome.verdict is Verdict.FAIL
    assert words in str(outcome.remedy)
    assert "the group root" not in str(outcome.remedy)


async def test_a_metrics_port_is_free_or_ours_or_somebody_elses(tmp_path: Path) -> None:
    listener = listen_tcp("127.0.0.1", 0)
    wanted = settings(tmp_path, {"metrics": {"listen": f"127.0.0.1:{listener.getsockname()[1]}"}})
    async with daemon(listener, WELL):
        assert "metrics page" in (await findings_of(wanted, "metrics"))["port"].seen
    assert "free" in (await findings_of(wanted, "metrics"))["port"].seen
    port = wanted.metrics.listen.port if wanted.metrics.listen is not None else 0

    async def hang_up(stream: anyio.abc.SocketStream) -> None:
        await stream.aclose()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port) as other,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(other.serve, hang_up)
        found = await findings_of(wanted, "metrics")
        tasks.cancel_scope.cancel()
    assert found["port"].verdict is Verdict.FAIL
    assert "something else" in found["port"].seen


def test_an_address_that_this_machine_does_not_have_is_said() -> None:
    outcome = doors.examine_tcp_door(TcpListen("192.0.2.1", 9), "metrics.listen")
    assert outcome.verdict is Verdict.FAIL
    assert "metrics.listen" in str(outcome.remedy)


@pytest.mark.parametrize(
    ("allowed", "verdict"),
    [("unlimited", Verdict.OK), ("524288", Verdict.OK), ("1024", Verdict.WARN), ("64", Verdict.WARN)],
)
def test_few_open_files_are_a_warning(tmp_path: Path, allowed: str, verdict: Verdict) -> None:
    folder = tmp_path / "77"
    folder.mkdir()
    (folder / "limits").write_text(
        f"Limit                     Soft Limit           Hard Limit           Units\n"
        f"Max open files            {allowed}                 524288               files\n"
    )
    outcome = limits.examine_files(settings(tmp_path), 77, proc=tmp_path)
    assert outcome.verdict is verdict
    assert "for the daemon" in outcome.seen


@pytest.mark.parametrize(
    ("inner", "outer", "verdict"),
    [("max", "max", Verdict.OK), ("max", "4294967296", Verdict.OK), ("67108864", "max", Verdict.WARN)],
)
def test_little_memory_is_a_warning(tmp_path: Path, inner: str, outer: str, verdict: Verdict) -> None:
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "cgroup").write_text("0::/system.slice/renewer.service\n")
    group = tmp_path / "cgroup" / "system.slice" / "renewer.service"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{inner}\n")
    (group.parent / "memory.max").write_text(f"{outer}\n")
    outcome = limits.examine_memory(settings(tmp_path), 77, proc=tmp_path, cgroups=tmp_path / "cgroup")
    assert outcome.verdict is verdict


@pytest.mark.parametrize(
    ("inner", "outer", "seen"),
    [
        ("9223372036854771712", "9223372036854771712", "no limit for the daemon"),
        ("9223372036854771712", "67108864", "64 MiB allowed for the daemon"),
        ("67108864", "9223372036854771712", "64 MiB allowed for the daemon"),
    ],
)
def test_little_memory_is_a_warning_where_control_groups_are_of_the_first_version(
    tmp_path: Path, inner: str, outer: str, seen: str
) -> None:
    (tmp_path / "77").mkdir()
    membership = "9:name=systemd:/\n4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n"
    (tmp_path / "77" / "cgroup").write_text(membership)
    group = tmp_path / "cgroup" / "memory" / "docker" / "abc"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(f"{inner}\n")
    (group.parent / "memory.limit_in_bytes").write_text(f"{outer}\n")
    outcome = limits.examine_memory(settings(tmp_path), 77, proc=tmp_path, cgroups=tmp_path / "cgroup")
    assert outcome.seen.startswith(seen)
    assert outcome.verdict is (Verdict.OK if seen.startswith("no limit") else Verdict.WARN)


@pytest.mark.parametrize(
    ("membership", "file"),
    [("0::/kubepods/pod1\n", "memory.max"), ("4:memory:/kubepods/pod1\n0::/\n", "memory/memory.limit_in_bytes")],
)
def test_in_a_container_the_limit_is_that_of_its_root(tmp_path: Path, membership: str, file: str) -> None:
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "cgroup").write_text(membership)
    (tmp_path / "cgroup" / "memory").mkdir(parents=True)
    (tmp_path / "cgroup" / file).write_text("67108864\n")
    outcome = limits.examine_memory(settings(tmp_path), 77, proc=tmp_path, cgroups=tmp_path / "cgroup")
    assert outcome.seen.startswith("64 MiB allowed for the daemon")


@pytest.mark.parametrize(
    "membership", [None, "", "nonsense\n", "0::/a/b\n", "0::/../..\n", "4:memory:/a\n0::/\n", "4:memory:/\n"]
)
def test_where_it_cannot_be_told_how_much_memory_there_is_that_is_said(tmp_path: Path, membership: str | None) -> None:
    (tmp_path / "77").mkdir()
    (tmp_path / "cgroup").mkdir()
    if membership is not None:
        (tmp_path / "77" / "cgroup").write_text(membership)
    outcome = limits.examine_memory(settings(tmp_path), 77, proc=tmp_path, cgroups=tmp_path / "cgroup")
    assert (outcome.verdict, outcome.seen) == (Verdict.OK, "not known on this system")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        *((text, "not known on this system") for text in ("", "-1", "²", "٣", "1e9", "unlimited")),
        *((text, "no limit for the daemon") for text in ("max", "9223372036854775807", "9" * 5000)),
    ],
)
def test_a_limit_of_memory_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path, text: str, seen: str) -> None:
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "cgroup").write_text("0::/renewer\n")
    group = tmp_path / "cgroup" / "renewer"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{text}\n")
    outcome = limits.examine_memory(settings(tmp_path), 77, proc=tmp_path, cgroups=tmp_path / "cgroup")
    assert (outcome.verdict, outcome.seen) == (Verdict.OK, seen)
    (group.parent / "memory.max").write_text("67108864\n")
    outcome = limits.examine_memory(settings(tmp_path), 77, proc=tmp_path, cgroups=tmp_path / "cgroup")
    assert outcome.seen.startswith("64 MiB allowed for the daemon")


def test_at_the_root_of_all_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    (tmp_path / "77").mkdir()
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "77" / "cgroup").write_text("0::/\n")
    outcome = limits.examine_memory(settings(tmp_path), 77, proc=tmp_path, cgroups=tmp_path / "cgroup")
    assert (outcome.verdict, outcome.seen) == (Verdict.OK, "no limit for the daemon")


def test_the_clock_is_looked_at_and_not_changed() -> None:
    assert limits.examine_clock().verdict in (Verdict.OK, Verdict.WARN)


async def test_a_check_that_takes_too_long_or_goes_wrong_does_not_cost_the_others() -> None:
    examination = Examination("subject")

    async def hang() -> Any:
        await anyio.sleep_forever()

    async def raise_it(error: Exception) -> Any:
        raise error

    async def fine() -> Any:
        return ok("fine", 7)

    assert await examination.check("slow", hang, remedy="wait", timeout_s=0.01) is None
    for error in (UsageError("ours"), PermissionError(13, "Permission denied"), KeyError("secret")):
        assert await examination.check("bad", lambda error=error: raise_it(error), remedy="mend it") is None
    assert await examination.check("fine", fine, remedy="none") == 7
    assert [finding.seen for finding in examination.findings] == [
        "no answer within 0.01 s",
        "ours",
        "Permission denied",
        "the check itself went wrong (KeyError)",
        "fine",
    ]
    assert json.dumps([finding.verdict for finding in examination.findings]) == (
        '["fail", "fail", "fail", "fail", "ok"]'
    )
