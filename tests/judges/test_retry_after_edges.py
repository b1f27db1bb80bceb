"""What a service asks for with Retry-After, however oddly, is when the daemon says that it polls next."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.judges.daemon_process import PATIENCE_S, View, register, running
from tests.judges.local_service import Asked, Reply, serving

FLOOR_S, DEFAULT_S, CEILING_S = 0.05, 40.0, 600.0
BACKOFF_S = 5.0
"""The longest wait after one failure that nobody said anything about, and how far those who wait are spread."""
KINDS = ("fabric", "azure")
STATUSES = (429, 503)
ROUNDING_S = 0.05
"""Two clocks are read one after the other, and moments are shown rounded."""

Headers = tuple[tuple[str, str], ...]

LONG_AGO = datetime(2020, 2, 29, 23, 59, 50, tzinfo=UTC)
FAR_AHEAD = datetime(2031, 12, 31, 23, 59, 50, tzinfo=UTC)


def date(moment: datetime, form: str = "%a, %d %b %Y %H:%M:%S GMT") -> str:
    return moment.strftime(form)


def asked(value: str) -> Headers:
    return (("Retry-After", value),)


def dated(now: datetime, ahead_s: float, form: str = "%a, %d %b %Y %H:%M:%S GMT") -> Headers:
    """A date so far ahead of the service's own clock, which says so."""
    return (("Date", date(now)), ("Retry-After", date(now + timedelta(seconds=ahead_s), form)))


# What comes with an answer, and the span that has to follow.
EDGES: dict[str, tuple[Headers, float]] = {
    "nothing": ((), DEFAULT_S),
    "zero": (asked("0"), DEFAULT_S),
    "zero with a fraction": (asked("0.0"), DEFAULT_S),
    "negative": (asked("-5"), DEFAULT_S),
    "whole seconds": (asked("7"), 7.0),
    "leading zeros": (asked("007"), 7.0),
    "blanks around it": (asked("  7 "), 7.0),
    "a fraction": (asked("7.5"), 7.5),
    "less than the floor": (asked("0.001"), FLOOR_S),
    "more than the ceiling": (asked("601"), CEILING_S),
    "huge": (asked("9999999999"), CEILING_S),
    "more digits than a number has": (asked("9" * 400), CEILING_S),
    "infinite": (asked("inf"), DEFAULT_S),
    "not a number": (asked("nan"), DEFAULT_S),
    "a power of ten": (asked("1e3"), DEFAULT_S),
    "hexadecimal": (asked("0x10"), DEFAULT_S),
    "with a unit": (asked("5 seconds"), DEFAULT_S),
    "a word": (asked("soon"), DEFAULT_S),
    "a path": (asked("/bar"), DEFAULT_S),
    "empty": (asked(""), DEFAULT_S),
    "a date": (dated(LONG_AGO, 20), 20.0),
    "a date over the end of a year": (dated(FAR_AHEAD, 20), 20.0),
    "a date as RFC 850 has it": (dated(FAR_AHEAD, 20, "%A, %d-%b-%y %H:%M:%S GMT"), 20.0),
    "a date as asctime has it": (dated(FAR_AHEAD, 20, "%a %b %e %H:%M:%S %Y"), 20.0),
    "a date that has passed": (dated(LONG_AGO, -3600), DEFAULT_S),
    "a date that is now": (dated(LONG_AGO, 0), DEFAULT_S),
    "a date long ahead": (dated(LONG_AGO, 365 * 86_400), CEILING_S),
    "a date in another zone": (dated(LONG_AGO, 20, "%a, %d %b %Y %H:%M:%S +0200"), DEFAULT_S),
    "a date that is none": ((("Date", date(LONG_AGO)), *asked("Mon, 32 Foo 2026 25:61:61 GMT")), DEFAULT_S),
    "a date of a clock that is years off, ours not heard": (asked(date(LONG_AGO)), DEFAULT_S),
    "milliseconds": ((("retry-after-ms", "7500"),), 7.5),
    "milliseconds as Microsoft calls them": ((("x-ms-retry-after-ms", "7500"),), 7.5),
    "milliseconds that are a word": ((("retry-after-ms", "soon"),), DEFAULT_S),
    "both, the milliseconds longer": ((*asked("7"), ("retry-after-ms", "9000")), 9.0),
    "both, the seconds longer": ((*asked("9"), ("x-ms-retry-after-ms", "7000")), 9.0),
    "both, one of them garbage": ((*asked("soon"), ("x-ms-retry-after-ms", "7000")), 7.0),
    "twice": ((*asked("7"), *asked("9")), 9.0),
}


PUT_OFF: dict[str, tuple[Headers, float, float]] = {
    "nothing": ((), FLOOR_S, BACKOFF_S),
    "zero": (asked("0"), FLOOR_S, BACKOFF_S),
    "garbage": (asked("soon"), FLOOR_S, BACKOFF_S),
    "seconds": (asked("20"), 20.0, 20.0 + BACKOFF_S),
    "a date of another year": (dated(LONG_AGO, 20), 20.0, 20.0 + BACKOFF_S),
    "milliseconds": ((("x-ms-retry-after-ms", "20000"),), 20.0, 20.0 + BACKOFF_S),
    "huge": (asked("9999999999"), CEILING_S, CEILING_S + BACKOFF_S),
}
"""What comes with a 429 or a 503, and between which spans the next poll has to lie."""


@dataclass
class Service:
    """Starts operations that are never done. What it says of each is known beforehand: first, and to every poll."""

    base_url: str = ""
    said: dict[str, tuple[Headers, Reply]] = field(default_factory=dict)
    polled_at: dict[str, datetime] = field(default_factory=dict)

    def reply(self, request: Asked) -> Reply:
        id_ = request.target.rpartition("/")[2]
        first, later = self.said[id_]
        if request.method == "POST":
            place = f"{self.base_url}/v1/operations/{id_}"
            return Reply(202, (("Location", place), ("Operation-Location", place), ("x-ms-operation-id", id_), *first))
        self.polled_at[id_] = datetime.now(UTC)
        return later


@dataclass
class Stage:
    """A service, and a daemon that follows what it starts."""

    service: Service
    api: httpx.Client

    def start(self, account: str, first: Headers, later: Reply) -> tuple[str, View]:
        """Have an operation started; its id at the service, and how the daemon shows it."""
        id_ = str(uuid.uuid4())
        self.service.said[id_] = first, later
        submit = {"method": "POST", "url": f"{self.service.base_url}/v1/start/{id_}"}
        return id_, register(self.api, {"account": account, "submit": submit})

    def scheduled(self, view: View, *, after_poll: bool) -> View:
        """The operation when it is known when it is asked about next."""
        end = time.monotonic() + PATIENCE_S
        while view["next_poll_at"] is None or (after_poll and not view["polls"] + view["poll_errors"]):
            assert time.monotonic() < end, str(view)
            view = self.api.get(f"/v1/operations/{view['id']}").raise_for_status().json()
        return view


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    service = Service()
    # Who is put off may ask nothing else of the same quota: each has an identity, that is a token, of its own.
    names = ["main", *(put_off_account(edge, status) for edge in PUT_OFF for status in STATUSES)]
    with serving(service.reply) as service.base_url:
        accounts = [section(kind, name, service.base_url) for kind in KINDS for name in names]
        with running("\n".join(accounts)) as daemon, daemon.api.client() as api:
            yield Stage(service, api)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", EDGES)
def test_the_first_poll_is_due_when_the_first_answer_says(stage: Stage, edge: str, kind: str) -> None:
    headers, span_s = EDGES[edge]
    before = datetime.now(UTC)
    _, view = stage.start(f"{kind}.main", headers, still_running(asked("600")))
    check(stage.scheduled(view, after_poll=False), before, span_s, span_s)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", EDGES)
def test_the_next_poll_is_due_when_the_answer_to_the_last_one_says(stage: Stage, edge: str, kind: str) -> None:
    headers, span_s = EDGES[edge]
    id_, view = stage.start(f"{kind}.main", asked(f"{FLOOR_S}"), still_running(headers))
    view = stage.scheduled(view, after_poll=True)
    check(view, stage.service.polled_at[id_], span_s, span_s)
    assert view["poll_errors"] == 0


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edge", PUT_OFF)
def test_who_is_put_off_asks_again_no_earlier_than_told(stage: Stage, edge: str, kind: str, status: int) -> None:
    headers, least_s, most_s = PUT_OFF[edge]
    account = f"{kind}.{put_off_account(edge, status)}"
    id_, view = stage.start(account, asked(f"{FLOOR_S}"), Reply(status, headers))
    view = stage.scheduled(view, after_poll=True)
    check(view, stage.service.polled_at[id_], least_s, most_s)
    assert (view["state"], view["polls"]) == ("running", 0)


def check(view: View, since: datetime, least_s: float, most_s: float) -> None:
    """The next poll is due so long after the answer, which came between `since` and now."""
    due_at = datetime.fromisoformat(view["next_poll_at"])
    assert since + timedelta(seconds=least_s - ROUNDING_S) <= due_at, view
    assert due_at <= datetime.now(UTC) + timedelta(seconds=most_s + ROUNDING_S), view


def still_running(headers: Headers) -> Reply:
    return Reply(200, (("Content-Type", "application/json"), *headers), '{"status": "Running"}')


def put_off_account(edge: str, status: int) -> str:
    return f"put-off-{list(PUT_OFF).index(edge)}-{status}"


def section(kind: str, name: str, base_url: str) -> str:
    return f"""
        [{kind}.{name}]
        base_url = "{base_url}{"/v1" if kind == "fabric" else ""}"
        token = "token-of-{kind}-{name}"
        poll_floor = "{FLOOR_S}s"
        default_interval = "{DEFAULT_S}s"
        poll_ceiling = "{CEILING_S}s"
    """
