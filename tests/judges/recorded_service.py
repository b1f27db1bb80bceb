"""A Fabric that answers as it was recorded, and remembers how it was asked.

A recording is `{"request": {"method", "url"}, "accepted": ANSWER, "polls": [ANSWER…], "result": ANSWER or null}`, an
ANSWER `{"url", "status", "headers", "body"}` with the body as text. Hours of recorded waiting are played in seconds:
every Retry-After is scaled down. The hosts that recorded answers point to become a trap, which notes who comes.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.judges.local_service import Asked, Reply, serving

Recording = Mapping[str, Any]

TOKEN = "a-token"
ANSWER_TAKES_S = 0.005
"""Every answer is so long on its way, so that a second question at the same time would be seen."""

_THROTTLED = {"errorCode": "RequestBlocked", "message": "Request is blocked by the upstream service", "moreDetails": []}


@dataclass
class Played:
    """One run of a recording, and what the service saw of it."""

    number: int
    recording: Recording
    submits: int = 0
    polls: int = 0
    under_way: int = 0
    not_before: float = 0.0
    early_s: list[float] = field(default_factory=list)
    overlaps: int = 0

    def accept(self) -> None:
        """Someone else sent the first request, and hands the recorded answer to it on."""
        self.submits = 1
        self.not_before = time.monotonic() + _retry_after_s(self.recording["accepted"]["headers"])

    @property
    def last(self) -> dict[str, Any]:
        """The last state document."""
        document: dict[str, Any] = json.loads(self.recording["polls"][-1]["body"])
        return document

    @property
    def result(self) -> tuple[str, bytes] | None:
        """Content type and body of the recorded result; None where there is none."""
        recorded = self.recording["result"]
        if recorded is None or recorded["status"] != 200:
            return None
        return recorded["headers"]["Content-Type"], recorded["body"].encode()


@dataclass
class RecordedService:
    """Plays any number of recordings at once.

    `scale` is what every recorded Retry-After is multiplied by. With `throttle_every`, each answer whose number can be
    divided by it is a 429 instead.
    """

    scale: float
    throttle_every: int | None = None
    base_url: str = ""
    strangers: int = 0
    """Connections to the hosts that recorded answers point to."""
    wrong_tokens: int = 0
    answers: int = 0
    throttled: int = 0
    unknown: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _by_path: dict[tuple[str, str], Played] = field(default_factory=dict)
    _trap: str = ""

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve on loopback until the end of the block."""
        trap = socket.create_server(("127.0.0.1", 0))
        self._trap = f"127.0.0.1:{trap.getsockname()[1]}"
        watcher = threading.Thread(target=self._watch, args=[trap], daemon=True)
        watcher.start()
        try:
            with serving(self._answer) as self.base_url:
                yield
        finally:
            trap.shutdown(socket.SHUT_RDWR)
            trap.close()
            watcher.join()

    def play(self, recording: Recording) -> Played:
        """Take up one more run of this recording, as an operation of its own."""
        text = json.dumps(recording)
        old_id = recording["accepted"]["headers"]["x-ms-operation-id"]
        for host in _hosts(recording):
            text = text.replace(f"https://{host}", f"https://{self._trap}")
        renewed = json.loads(text.replace(old_id, str(uuid.uuid4())))
        for answer in (renewed["accepted"], *renewed["polls"]):
            if (asked := answer["headers"].get("Retry-After")) is not None:
                answer["headers"]["Retry-After"] = f"{float(asked) * self.scale:g}"
        with self._lock:
            played = Played(len(self._by_path), renewed)
            method, path = renewed["request"]["method"], urlsplit(renewed["request"]["url"]).path
            state = urlsplit(renewed["polls"][0]["url"]).path
            renewed["request"]["url"] = f"{self.base_url}{path}?run={played.number}"
            for key in ((method, f"{path}?run={played.number}"), ("GET", state), ("GET", f"{state}/result")):
                self._by_path[key] = played
        return played

    def _answer(self, asked: Asked) -> Reply:
        arrived_at = time.monotonic()
        with self._lock:
            self.answers += 1
            throttle = self.throttle_every is not None and self.answers % self.throttle_every == 0
            self.wrong_tokens += asked.headers.get_all("Authorization") != [f"Bearer {TOKEN}"]
            played = self._by_path.get((asked.method, asked.target))
            if played is None:
                self.unknown.append(f"{asked.method} {asked.target}")
                return Reply(404, body='{"errorCode": "OperationNotFound", "message": "nothing recorded"}')
            played.overlaps += played.under_way > 0
            # A first request may be repeated at once where its answer was lost.
            if arrived_at < played.not_before and not (asked.method != "GET" and played.submits):
                played.early_s.append(played.not_before - arrived_at)
            played.under_way += 1
        time.sleep(ANSWER_TAKES_S)
        with self._lock:
            played.under_way -= 1
            answer = self._throttle() if throttle else _next(played, asked)
            played.not_before = time.monotonic() + _retry_after_s(answer["headers"])
        return Reply(answer["status"], tuple(answer["headers"].items()), answer["body"])

    def _throttle(self) -> Recording:
        self.throttled += 1
        headers = {"Content-Type": "application/json", "Retry-After": f"{2 * self.scale:g}"}
        return {"status": 429, "headers": headers, "body": json.dumps(_THROTTLED)}

    def _watch(self, trap: socket.socket) -> None:
        while True:
            try:
                connection, _ = trap.accept()
            except OSError:
                return
            connection.close()
            self.strangers += 1


def _next(played: Played, asked: Asked) -> Recording:
    """The recorded answer whose turn it is; the last state document is said again and again."""
    answer: Recording
    if asked.method != "GET":
        played.submits += 1
        answer = played.recording["accepted"]
    elif asked.target.endswith("/result"):
        answer = played.recording["result"]
    else:
        polls = played.recording["polls"]
        answer = polls[min(played.polls, len(polls) - 1)]
        played.polls += 1
    return answer


def _hosts(recording: Recording) -> set[str]:
    answers = [recording["accepted"], *recording["polls"], *([recording["result"]] if recording["result"] else [])]
    urls = [answer["headers"].get("Location", "") for answer in answers]
    urls += [answer["headers"].get("home-cluster-uri", "") for answer in answers]
    urls += [answer["url"] for answer in answers if "url" in answer]
    return {host for url in urls if (host := urlsplit(url).netloc)}


def _retry_after_s(headers: Mapping[str, str]) -> float:
    return float(headers.get("Retry-After", 0))
