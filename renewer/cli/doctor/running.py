"""The daemon that runs, where one answers: what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import httpx

import renewer
from renewer.cli.doctor.findings import Outcome, fail, ok, warn
from renewer.config import UnixListen, resolve_secret
from renewer.errors import TransientError
from renewer.targets.http import exchange, parse_json

if TYPE_CHECKING:
    from renewer.config import Settings, TcpListen
    from renewer.targets.http import Answer

LAG_WARN_S: Final = 0.25
LAG_FAIL_S: Final = 2.0
SKEW_WARN_S: Final = 5.0
NEARLY_FULL: Final = 0.9

_MAX_BODY: Final = 4 * 1024**2
_MAX_TROUBLES: Final = 10


async def ask_status(settings: Settings) -> Outcome[Mapping[str, Any]]:
    """Ask the daemon at `[api] listen` how it is."""
    listen = settings.api.listen
    headers = {}
    source = settings.api.key_source()
    if source is not None:
        headers["Authorization"] = f"Bearer {resolve_secret(source, os.environ).get_secret_value()}"
    if isinstance(listen, UnixListen):
        transport, base_url = httpx.AsyncHTTPTransport(uds=str(listen.path)), "http://localhost"
    else:
        transport, base_url = httpx.AsyncHTTPTransport(), f"http://{_reachable(listen)}"
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        answer = await exchange(
            client, httpx.Request("GET", f"{base_url}/v1/status", headers=headers), max_body=_MAX_BODY
        )
    return _read(answer)


async def is_our_metrics_page(listen: TcpListen) -> bool:
    """Whether what listens there is a daemon's metrics page."""
    async with httpx.AsyncClient(trust_env=False) as client:
        request = httpx.Request("GET", f"http://{_reachable(listen)}/metrics")
        try:
            answer = await exchange(client, request, max_body=_MAX_BODY)
        except TransientError:
            return False
    return answer.status == 200 and b"renewer_build_info" in answer.body


def judge_status(status: Mapping[str, Any]) -> Iterator[tuple[str, Outcome[None]]]:
    """What to make of the daemon's own words: the name of each check, and how it came out."""
    yield "version", _version(status)
    yield "state", _state(status)
    yield "loop", _loop(status)
    yield "leases", _leases(status)
    for number, text in enumerate(_texts(status.get("trouble"))[:_MAX_TROUBLES], start=1):
        yield f"trouble {number}", warn(text, "the daemon's log says more")
    targets = status.get("targets")
    for target in targets if isinstance(targets, list) else []:
        skew_s = _number(target, "clock_skew_s")
        if skew_s is not None and abs(skew_s) > SKEW_WARN_S:
            yield (
                f"clock {target.get('name')}",
                warn(
                    f"the broker's clock is {abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} ours",
                    "synchronise this machine's clock, or set lock_duration of the namespace",
                ),
            )


def _version(status: Mapping[str, Any]) -> Outcome[None]:
    running = status.get("version")
    if running != renewer.__version__:
        return warn(f"{running} runs, and this is {renewer.__version__}", "restart the daemon to run what is installed")
    return ok(f"{running}, as this command")


def _state(status: Mapping[str, Any]) -> Outcome[None]:
    state = status.get("state")
    if state == "draining":
        return warn("draining: it takes no new work", "`renewer drain --off` ends that")
    return ok(f"{state}") if state == "ready" else warn(f"{state}", "wait until it is ready, or look at its log")


def _loop(status: Mapping[str, Any]) -> Outcome[None]:
    lag_s = _number(status, "loop_lag_s") or 0.0
    seen = f"woke {lag_s * 1000:.0f} ms late"
    remedy = "give the daemon more CPU: its limit (CPUQuota, cpu.max), its neighbours, or fewer leases"
    if lag_s > LAG_FAIL_S:
        return fail(seen, remedy)
    return warn(seen, remedy) if lag_s > LAG_WARN_S else ok(seen)


def _leases(status: Mapping[str, Any]) -> Outcome[None]:
    counts = {word: status[word] for word in ("leases", "operations") if isinstance(status.get(word), dict)}
    leases = counts.get("leases", {})
    acquiring = leases.get("acquiring", 0)
    seen = (
        f"{leases.get('held', 0)} held, {leases.get('at_risk', 0)} at risk, {acquiring} acquiring, "
        f"{status.get('losses', 0)} lost so far"
    )
    if leases.get("at_risk"):
        return warn(seen, "`renewer lease ls --state at_risk` names them; their workers should stop side effects")
    limits = status.get("limits")
    for word, states in counts.items():
        most, used = _number(limits, word), sum(_number(states, state) or 0 for state in states)
        if most and used > NEARLY_FULL * most:
            return warn(f"{seen}; {used:.0f} of {most:.0f} {word}", f"raise api.max_{word}, or forget those that ended")
    if acquiring:
        return warn(
            f"{seen}: some are not held",
            "`renewer lease ls --state acquiring` names them, and `renewer lease get LEASE` says why",
        )
    return ok(seen)


def _read(answer: Answer) -> Outcome[Mapping[str, Any]]:
    match answer.status:
        case 200:
            pass
        case 401:
            return fail("the daemon refuses our key (401)", "use the configuration that the daemon runs with")
        case 404:
            return fail("what answers has no /v1/status (404)", "restart the daemon: an older one is running")
        case _:
            return fail(f"answered {answer.status}", "look at the daemon's log")
    try:
        status = parse_json(answer.body)
    except ValueError:
        status = None
    if not isinstance(status, dict):
        return fail("what answers is not a renewer", "end what uses the address, or set another api.listen")
    return ok("answers", status)


def _reachable(listen: TcpListen) -> str:
    """Where a listener on all addresses is reached from here."""
    return listen.authority.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")  # noqa: S104 - not listened on


def _texts(value: object) -> list[str]:
    return [str(text) for text in value] if isinstance(value, list) else []


def _number(document: object, key: str) -> float | None:
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
