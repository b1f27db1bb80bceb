"""The daemon follows every long-running operation that the public test servers of the Azure SDKs play.

Each is submitted by the daemon, and again started here and handed over. `make judges` shows the table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from tests.judges.daemon_process import OVER, View, answer_of, read_json, register, result_of, running
from tests.judges.lro_scenarios import CLASSIC_SCENARIOS, SPECTOR_SCENARIOS, Scenario
from tests.judges.public_servers import CLASSIC, SPECTOR, PublicServer

HOW = ("submit", "adopt")
AT_ONCE = 12
WAIT = "30s"
DEADLINE = {"timed_out": "3s"}
"""Those that have to run into their deadline get a short one."""


@dataclass(frozen=True)
class Outcome:
    """What became of an operation."""

    view: View
    result: object

    @property
    def state(self) -> str:
        return str(self.view["state"])


Outcomes = dict[tuple[str, str], Outcome | Exception]


@dataclass(frozen=True)
class Judged:
    """All scenarios of a server, run."""

    server_url: str
    outcomes: Outcomes


@pytest.fixture(scope="module")
def classic() -> Iterator[Judged]:
    with judged(CLASSIC, CLASSIC_SCENARIOS) as found:
        yield found


@pytest.fixture(scope="module")
def spector() -> Iterator[Judged]:
    with judged(SPECTOR, SPECTOR_SCENARIOS) as found:
        yield found


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("scenario", CLASSIC_SCENARIOS, ids=lambda scenario: scenario.name)
def test_operations_of_the_classic_server_end_as_they_must(classic: Judged, scenario: Scenario, how: str) -> None:
    check(scenario, classic.outcomes[scenario.name, how])


def test_the_classic_server_itself_counts_every_one_of_its_operations_as_seen(classic: Judged) -> None:
    counts = {
        name: count
        for category in ("azure", "optional")
        for name, count in httpx.get(f"{classic.server_url}/report/{category}").raise_for_status().json().items()
        if "LRO" in name or name.startswith(("CustomHeaderPut", "CustomHeaderPost"))
    }
    assert counts
    assert [name for name, count in counts.items() if count == 0] == []


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("scenario", SPECTOR_SCENARIOS, ids=lambda scenario: scenario.name)
def test_operations_of_the_typespec_server_end_as_they_must(spector: Judged, scenario: Scenario, how: str) -> None:
    check(scenario, spector.outcomes[scenario.name, how])


def check(scenario: Scenario, outcome: Outcome | Exception) -> None:
    if isinstance(outcome, Exception):
        raise outcome
    view = outcome.view
    assert view["state"] == scenario.ends, view
    if scenario.ends == "succeeded":
        assert view["error"] is None, view
        assert outcome.result in scenario.result, view
        return
    assert view["result"] is None, view
    assert view["state"] in {"failed", "canceled"} or view["error"]["message"], view
    assert view["state"] != "timed_out" or view["last_poll_error"], view
    if scenario.error is not None:
        assert view["error"]["error"] == scenario.error


@contextmanager
def judged(server: PublicServer, scenarios: Sequence[Scenario]) -> Iterator[Judged]:
    """Run all scenarios, both ways; the server stays for as long as it is looked at."""
    with server.serving() as base_url:
        account = f"""
            [azure.main]
            base_url = "{base_url}"
            token = "a-token"
            poll_floor = "1ms"
            default_interval = "20ms"
            refused_grace = "0s"
            not_found_grace = "0s"
        """
        with running(account) as daemon, daemon.api.client() as api, ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes: Outcomes = {}
            for found in pool.map(lambda scenario: both_ways(api, base_url, scenario), scenarios):
                outcomes |= found
        show(scenarios, outcomes)
        yield Judged(base_url, outcomes)


def both_ways(api: httpx.Client, base_url: str, scenario: Scenario) -> Outcomes:
    """Submitted, and then adopted: the servers remember how far an operation has come."""
    outcomes: Outcomes = {}
    for how in HOW:
        try:
            wish = submission(base_url, scenario) if how == "submit" else adoption(base_url, scenario)
            outcomes[scenario.name, how] = follow(api, scenario, wish)
        except (httpx.HTTPError, AssertionError) as error:
            outcomes[scenario.name, how] = error
    return outcomes


def follow(api: httpx.Client, scenario: Scenario, wish: dict[str, object]) -> Outcome:
    deadline = DEADLINE.get(scenario.ends, WAIT)
    view = register(api, {"account": "azure.main", "deadline": deadline, **scenario.terms, **wish}, wait=WAIT)
    assert view["state"] in OVER, view
    result = read_json(result_of(api, view)) if view["result"] is not None else None
    if isinstance(result, dict):
        result.pop("nextLink", None)
    return Outcome(view, result)


def submission(base_url: str, scenario: Scenario) -> dict[str, object]:
    url = httpx.URL(f"{base_url}{scenario.path}", params=dict(scenario.query))
    return {
        "submit": {
            "method": scenario.method,
            "url": str(url),
            "headers": scenario.retry_safe_headers,
            "body": scenario.body,
        }
    }


def adoption(base_url: str, scenario: Scenario) -> dict[str, object]:
    """Start it ourselves, with what a careful caller does: cookies, and again after a 500."""
    with httpx.Client(base_url=base_url) as client:
        for _ in range(2):
            response = client.request(
                scenario.method,
                scenario.path,
                params=dict(scenario.query),
                headers=dict(scenario.headers),
                json=scenario.body,
            )
            if response.status_code != 500:
                break
    return {"adopt": answer_of(response)}


def show(scenarios: Sequence[Scenario], outcomes: Outcomes) -> None:
    """The table, for those who run this with -s."""
    lines = ["", f"{'scenario':<62}{'clients':<11}{'must be':<12}{'submitted':<12}{'adopted':<12}"]
    for scenario in scenarios:
        words = [word(scenario, outcomes[scenario.name, how]) for how in HOW]
        lines.append(f"{scenario.name:<62}{scenario.state:<11}{scenario.ends:<12}{words[0]:<12}{words[1]:<12}")
    right = sum(passes(scenario, outcomes[scenario.name, how]) for scenario in scenarios for how in HOW)
    ours = sum(scenario.ours is not None for scenario in scenarios)
    lines.append(f"{right} of {len(outcomes)} as they must be; {ours} of {len(scenarios)} scenarios end our own way:")
    lines += [f"  {why}" for why in dict.fromkeys(scenario.why for scenario in scenarios if scenario.ours)]
    sys.stdout.write("\n".join(lines) + "\n")


def word(scenario: Scenario, outcome: Outcome | Exception) -> str:
    state = outcome.state if isinstance(outcome, Outcome) else "?"
    return state if passes(scenario, outcome) else f"{state} !"


def passes(scenario: Scenario, outcome: Outcome | Exception) -> bool:
    try:
        check(scenario, outcome)
    except (AssertionError, httpx.HTTPError):
        return False
    return True
