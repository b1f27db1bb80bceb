"""An account: its token, whether its host can be reached and lets the token in, and how far clocks are apart."""

from __future__ import annotations

import functools
import json
import os
import re
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import httpx

from renewer import __version__
from renewer.cli.doctor.findings import CHECK_TIMEOUT_S, Examination, Outcome, Verdict, fail, ok, warn
from renewer.config.quantities import format_duration
from renewer.daemon.build import token_source
from renewer.errors import UsageError
from renewer.targets.http import exchange
from renewer.targets.identity import token_claims
from renewer.targets.rest import AccountOptions, build_account_transport
from renewer.targets.rest.documents import error_code

if TYPE_CHECKING:
    from renewer.config import AccountSettings
    from renewer.ports import Clock
    from renewer.targets.http import Answer, Sender

SKEW_WARN_S: Final = 5.0

_UNKNOWN_OPERATION: Final = "/operations/00000000-0000-0000-0000-000000000000"
"""The state of an operation that there is not: to ask for it takes a good token, and changes nothing."""

_SUBSCRIPTIONS: Final = "/subscriptions?api-version=2022-12-01"
"""What Azure Resource Manager shows to everybody with a good token: the subscriptions in which it has a role."""

_RESOURCE_MANAGERS: Final = ("management.azure.com", "management.usgovcloudapi.net", "management.chinacloudapi.cn")

_MAX_BODY: Final = 16 * 1024**2
"""An identity may have a role in thousands of subscriptions."""

_IDENTITY_TIMEOUT_S: Final = 20.0
"""azure-identity tries one source after the other, some of them over the network."""

_NEEDS_A_ROLE: Final = "give the identity a role (Reader at least) in the subscription, resource group or resource"
_NEEDS_FABRIC: Final = (
    "let the identity use the Fabric APIs (tenant setting for service principals), and give it a role in the workspace"
)
_SOON_S: Final = 300.0
_SYNCHRONISE: Final = "synchronise this machine's clock (chrony, systemd-timesyncd, or that of the host)"


async def examine_account(examination: Examination, name: str, section: AccountSettings, clock: Clock) -> None:
    """Everything about the section called `name`, such as ``fabric.main``."""
    has_own_token = section.token_source(name.partition(".")[2]) is not None
    token = await examination.check(
        "token",
        functools.partial(_token, section, clock, name),
        remedy=f"correct token, token_file or token_env of [{name}]"
        if has_own_token
        else "give this machine an identity: AZURE_* variables, a workload or managed identity, or `az login`",
        timeout_s=CHECK_TIMEOUT_S if has_own_token else _IDENTITY_TIMEOUT_S,
    )
    client = build_account_transport(AccountOptions(name, section.base_url, section.allow_hosts, max_connections=1))
    try:
        read = await examination.check(
            "reach",
            functools.partial(_reach, client, section, token, clock),
            remedy=f"let this machine reach {section.base_url} (DNS, firewall, proxy, CA in SSL_CERT_FILE), or correct "
            f"base_url of [{name}]",
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


async def _token(section: AccountSettings, clock: Clock, name: str) -> Outcome[str]:
    try:
        token = await token_source(name, section, clock, os.environ).token()
    except UsageError as error:
        return fail(str(error), f"correct [{name}]")
    claims = token_claims(token)
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
            f"put a fresh token where [{name}] says, or set this machine's clock right",
            token,
        )
    seen = f"obtained, good for {_span(left_s)}{whom}"
    if section.token is not None or left_s < _SOON_S:
        return warn(seen, "a token of your own ends and is not renewed: use token_file, or credential", token)
    return ok(seen, token)


async def _reach(
    client: Sender, section: AccountSettings, token: str | None, clock: Clock
) -> Outcome[tuple[Answer, float | None]]:
    headers = {"Accept": "application/json", "User-Agent": f"renewer/{__version__}"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    asked_at = clock.now()
    answer = await exchange(client, httpx.Request("GET", _harmless(section), headers=headers), max_body=_MAX_BODY)
    took_s = clock.now() - asked_at
    skew_s = _skew_s(answer.header("date"), clock.utc_now().timestamp(), took_s)
    return ok(f"{section.base_url} answered {answer.status} in {took_s * 1000:.0f} ms", (answer, skew_s))


def _harmless(section: AccountSettings) -> str:
    """The URL of something that can be asked for without consequences."""
    if section.GROUP == "fabric":
        return section.base_url + _UNKNOWN_OPERATION
    if _is_resource_manager(section):
        return str(httpx.URL(section.base_url).join(_SUBSCRIPTIONS))
    # Of a service that is not known nothing is known but that it is there.
    return section.base_url


def _is_resource_manager(section: AccountSettings) -> bool:
    host = httpx.URL(section.base_url).host
    return section.GROUP == "azure" and any(host == known or host.endswith(f".{known}") for known in _RESOURCE_MANAGERS)


def _permission(answer: Answer, section: AccountSettings, name: str, *, has_token: bool) -> Outcome[None]:
    status, is_fabric = answer.status, section.GROUP == "fabric"
    if not has_token:
        return warn("not tried without a token", "see the finding on the token")
    match status:
        case 200 if _is_resource_manager(section) and _sees_nothing(answer):
            return warn("the token is let in, but sees no subscription", _NEEDS_A_ROLE)
        case 200 | 400 | 404 if is_fabric or _is_resource_manager(section):
            return ok("the token is let in")
        case _ if not is_fabric and (200 <= status < 300 or status in (400, 404, 405)):
            return ok(f"the token is not refused ({status}); whether it is let in, its first operation will tell")
        case 401:
            return fail(
                f"the token is refused (401{_code(answer)})",
                f"make sure that the token of [{name}] is for {section.base_url}, from the right tenant and not ended",
            )
        case 403:
            return fail(
                f"the token is good, but its identity has no permission (403{_code(answer)})",
                _NEEDS_FABRIC if is_fabric else _NEEDS_A_ROLE,
            )
        case 429:
            return warn("the service asks to wait (429)", "someone uses up this identity's quota: wait, or share less")
        case _ if 300 <= status < 400:
            return fail(f"redirects elsewhere ({status})", f"correct base_url of [{name}]; none is followed")
        case _ if status >= 500:
            return warn(f"the service is in trouble ({status})", "try again; see its status page")
        case _:
            what = "a Fabric API" if is_fabric else "an Azure API"
            return fail(f"answered {status}", f"make sure that base_url of [{name}] is {what}")


def _sees_nothing(answer: Answer) -> bool:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("value") == []


def _code(answer: Answer) -> str:
    """What the service calls its refusal, such as ExpiredAuthenticationToken."""
    code = error_code(answer)
    return f" {code}" if code is not None and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", code) else ""


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
