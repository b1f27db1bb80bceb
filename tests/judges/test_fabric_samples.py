"""Recorded Fabric operations, followed by the daemon as a process, end as recorded.

Those of tests/targets, or those of the file that RENEWER_FABRIC_SAMPLES names.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.judges.daemon_process import DaemonProcess, View, register, result_of, running
from tests.judges.recorded_service import TOKEN, Played, RecordedService, Recording

COMMITTED = Path(__file__).parents[1] / "targets" / "fabric_recordings.json"
SAMPLES = Path(os.environ.get("RENEWER_FABRIC_SAMPLES") or COMMITTED)
RECORDINGS: list[Recording] = json.loads(SAMPLES.read_text("utf-8"))
COPIES = 6 if SAMPLES == COMMITTED else 1
KILLS = int(os.environ.get("RENEWER_KILLS", "4"))
SEED = int(os.environ.get("RENEWER_KILL_SEED") or random.randrange(1_000_000))

FAST = 0.01
"""20 s of a recording in 200 ms."""
SLOW = 0.05
"""20 s in one second, so that there is a middle to be killed in."""


@dataclass
class Wish:
    """A recorded operation that somebody wants followed."""

    key: str
    body: dict[str, object]
    played: Played
    id: str | None = None


def test_recorded_operations_end_as_recorded_and_are_asked_when_they_said() -> None:
    with playing(RecordedService(FAST)) as (service, daemon):
        wishes = wishes_for(service)
        ends = follow(daemon, wishes)
        check(service, wishes, ends)
        for wish in wishes:
            view, _ = ends[wish.key]
            recorded = len(wish.played.recording["polls"])
            assert (wish.played.submits, wish.played.polls) == (1, recorded)
            assert (view["polls"], view["poll_errors"]) == (recorded, 0)


def test_they_end_the_same_when_every_fifth_answer_is_a_429() -> None:
    with playing(RecordedService(FAST, throttle_every=5)) as (service, daemon):
        wishes = wishes_for(service)
        check(service, wishes, follow(daemon, wishes))
        assert service.throttled == service.answers // 5 > 0
        assert all(wish.played.submits == 1 for wish in wishes)


# A client whose server is killed while it connects leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_they_end_the_same_when_the_daemon_is_killed_in_the_middle() -> None:
    dice = random.Random(SEED)
    sys.stdout.write(f"RENEWER_KILL_SEED={SEED}\n")
    with playing(RecordedService(SLOW)) as (service, daemon):
        wishes = wishes_for(service, repeatable=True)
        dice.shuffle(wishes)
        for number in range(KILLS):
            # Some are asked for when those of the round before are half done.
            killer = threading.Timer(dice.random(), daemon.kill)
            killer.start()
            register_all(daemon, wishes[: len(wishes) * (number + 1) // KILLS])
            killer.join()
            daemon.start()
        check(service, wishes, follow(daemon, wishes))


def wishes_for(service: RecordedService, *, repeatable: bool = False) -> list[Wish]:
    """Each recording to be submitted, and to be adopted, `COPIES` times.

    Where they are `repeatable`, first requests bear an id, so that they may be sent again when an answer was lost.
    """
    wishes = []
    for recording in RECORDINGS * COPIES:
        played = service.play(recording)
        request = {**played.recording["request"], "headers": {"Operation-Id": "1"} if repeatable else {}}
        wishes.append(Wish(f"submitted-{played.number}", {"submit": request}, played))
        played = service.play(recording)
        accepted = {name: played.recording["accepted"][name] for name in ("status", "headers", "body")}
        wishes.append(Wish(f"adopted-{played.number}", {"adopt": {**played.recording["request"], **accepted}}, played))
    return wishes


def register_all(daemon: DaemonProcess, wishes: Sequence[Wish]) -> None:
    """Have them registered, those that are not yet; until the daemon is gone."""
    with daemon.api.client() as client, ThreadPoolExecutor(8) as pool:

        def ask(wish: Wish) -> None:
            if "adopt" in wish.body and not wish.played.submits:
                wish.played.accept()
            with suppress(httpx.TransportError):
                wish.id = register(client, {"account": "fabric.main", **wish.body}, key=wish.key, wait="0s")["id"]

        list(pool.map(ask, [wish for wish in wishes if wish.id is None]))


def follow(daemon: DaemonProcess, wishes: Sequence[Wish]) -> dict[str, tuple[View, tuple[str, bytes] | None]]:
    """Register them, wait for all, and see what became of each: how it stands, and its result."""
    register_all(daemon, wishes)
    with daemon.api.client() as client:
        body = {"ids": [wish.id for wish in wishes], "until": "all"}
        waited = client.post("/v1/operations/wait", json=body, params={"wait": "50s"}).raise_for_status().json()
        views = {view["id"]: view for view in waited["items"]}
        assert waited["done"], [view for view in views.values() if view["ended_at"] is None]
        return {wish.key: (views[wish.id], result_of(client, views[wish.id])) for wish in wishes}


def check(
    service: RecordedService, wishes: Sequence[Wish], ends: dict[str, tuple[View, tuple[str, bytes] | None]]
) -> None:
    """Each ended as recorded; none was asked early, or twice at once; nobody else heard of the token."""
    for wish in wishes:
        played, (view, result) = wish.played, ends[wish.key]
        assert view["status"] == played.last["status"], view
        if played.last["status"] == "Failed":
            assert (view["state"], view["error"], result) == ("failed", played.last["error"], None)
        else:
            assert (view["state"], view["error"]) == ("succeeded", None)
            assert result == played.result
        assert played.early_s == []
        assert played.overlaps == 0
    assert service.unknown == []
    assert service.wrong_tokens == 0
    assert service.strangers == 0


@contextmanager
def playing(service: RecordedService) -> Iterator[tuple[RecordedService, DaemonProcess]]:
    """The service, and a daemon that has it as its Fabric."""
    with service.serving():
        account = f"""
            [fabric.main]
            base_url = "{service.base_url}/v1"
            token = "{TOKEN}"
            poll_floor = "10ms"
            default_interval = "100ms"
        """
        with running(account) as daemon:
            yield service, daemon
