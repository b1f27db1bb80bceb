"""A Fabric account: its token, whether its host can be reached and lets the token in, and how far clocks are apart."""

from __future__ import annotations

import base64
import functools
import json
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import httpx

from renewer import __version__
from renewer.cli.doctor.findings import CHECK_TIMEOUT_S, Examination, Outcome, Verdict, fail, ok, warn
from renewer.config.quantities import format_duration
from renewer.daemon.build import token_source
from renewer.errors import UsageError
from renewer.targets.http import STATE_BODY_MAX, build_client, exchange

if TYPE_CHECKING:
    from renewer.config import FabricSettings
    from renewer.ports import Clock
    from renewer.targets.http import Answer

SKEW_WARN_S: Final = 5.0

_UNKNOWN_OPERATION: Final = "/operations/00000000-0000-0000-0000-000000000000"
"""The state of an operation that there is not: to ask for it takes a good token, and changes nothing."""

_IDENTITY_TIMEOUT_S: Final = 20.0
"""azure-identity tries one source after the other, some of them over the network."""

_SOON_S: Final = 300.0
_SYNCHRONISE: Final = "synchronise this machine's clock (chrony, systemd-timesyncd, or that of the host)"


async def examine_account(examination: Examination, name: str, section: FabricSettings, clock: Clock) -> None:
    """Everything about ``[fabric.NAME]``."""
    has_own_token = section.token_source(name) is not None
    token = await examination.check(
        "token",
        functools.partial(_token, section, clock, name),
        remedy=f"correct token, token_file or token_env of [fabric.{name}]"
        if has_own_token
        else "give this machine an identity: AZURE_* variables, a workload or managed identity, or `az login`",
        timeout_s=CHECK_TIMEOUT_S if has_own_token else _IDENTITY_TIMEOUT_S,
    )
    client = build_client(max_connections=1)
    try:
        read = await examination.check(
            "reach",
            functools.partial(_reach, client, section.base_url, token, clock),
            remedy=f"let this machine reach {section.base_url} (DNS, firewall, proxy, CA in SSL_CERT_FILE), or correct "
            f"base_url of [fabric.{name}]",
        )
    finally:
        await client.aclose()
    if read is not None:
        answer, skew = read
        examination.add("permission", _permission(answer, section, name, has_token=token is not None))
        examination.add("clock", judge_skew(skew))


def judge_skew(skew_s: float | None) -> Outcome[None]:
    """How far the service's clock is ahead of ours, read from the Date of its answer (whole seconds)."""
    if skew_s is None:
        return ok("the service does not tell the time")
    if abs(skew_s) < 1:
        return ok("agrees with the service's to the second")
    seen = f"{abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} the service's"
    return warn(seen, _SYNCHRONISE) if abs(skew_s) > SKEW_WARN_S else ok(seen)


async def _token(section: FabricSettings, clock: Clock, name: str) -> Outcome[str]:
    try:
        token = await token_source(section, clock).token()
    except UsageError as error:
        return fail(str(error), f"correct [fabric.{name}]")
    claims = _claims(token)
    if claims is None:
        return ok("obtained; it is not a JWT, so that nothing can be said of its end", token)
    audience = claims.get("aud")
    whom = f", for {audience}" if isinstance(audience, str) and audience.isprintable() and len(audience) < 200 else ""
    ends_at = claims.get("exp")
    if not isinstance(ends_at, int | float) or isinstance(ends_at, bool):
        return ok(f"obtained{whom}; it does not say when it ends", token)
    left_s = ends_at - clock.utc_now().timestamp()
    if left_s <= 0:
        return Outcome(
            Verdict.FAIL,
            f"the token ended {_span(-left_s)} ago{whom}",
            f"put a fresh token where [fabric.{name}] says, or set this machine's clock right",
            token,
        )
    seen = f"obtained, good for {_span(left_s)}{whom}"
    if section.token is not None or left_s < _SOON_S:
        return warn(seen, "a token of your own ends and is not renewed: use token_file, or credential", token)
    return ok(seen, token)


async def _reach(
    client: httpx.AsyncClient, base_url: str, token: str | None, clock: Clock
) -> Outcome[tuple[Answer, float | None]]:
    headers = {"Accept": "application/json", "User-Agent": f"renewer/{__version__}"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    asked_at = clock.now()
    answer = await exchange(
        client, httpx.Request("GET", base_url + _UNKNOWN_OPERATION, headers=headers), max_body=STATE_BODY_MAX
    )
    took_s = clock.now() - asked_at
    skew_s = _skew_s(answer.header("date"), clock.utc_now().timestamp(), took_s)
    return ok(f"{base_url} answered {answer.status} in {took_s * 1000:.0f} ms", (answer, skew_s))


def _permission(answer: Answer, section: FabricSettings, name: str, *, has_token: bool) -> Outcome[None]:
    status = answer.status
    if not has_token:
        return warn("not tried without a token", "see the finding on the token")
    match status:
        case 200 | 400 | 404:
            return ok("the token is let in")
        case 401:
            return fail(
                "the token is refused (401)",
                f"make sure that the token of [fabric.{name}] is for {section.base_url}, from the right tenant and not "
                "ended",
            )
        case 403:
            return fail(
                "the token is good, but its identity has no permission (403)",
                "let the identity use the Fabric APIs (tenant setting for service principals), and give it a role in "
                "the workspace",
            )
        case 429:
            return warn("the service asks to wait (429)", "someone uses up this identity's quota: wait, or share less")
        case _ if 300 <= status < 400:
            return fail(f"redirects elsewhere ({status})", f"correct base_url of [fabric.{name}]; none is followed")
        case _ if status >= 500:
            return warn(f"the service is in trouble ({status})", "try again; see its status page")
        case _:
            return fail(f"answered {status}", f"make sure that base_url of [fabric.{name}] is a Fabric API")


def _claims(token: str) -> dict[str, Any] | None:
    """What a JWT says, unverified: for showing its end and its audience, not for believing it."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def _skew_s(date: str | None, received_at: float, took_s: float) -> float | None:
    """The service's clock less ours: the middle of the second that it told, against the middle of the exchange."""
    if date is None:
        return None
    try:
        told = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
    return told + 0.5 - (received_at - took_s / 2)


def _span(span_s: float) -> str:
    for unit_s in (86_400, 3_600, 60):
        if span_s >= 2 * unit_s:
            return format_duration(timedelta(seconds=span_s // unit_s * unit_s))
    return f"{span_s:.0f}s"
