"""What lets us into a namespace, as far as that can be seen without the broker: an identity's token, a ready end."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from renewer.cli.doctor.findings import Examination, Outcome, fail, ok, warn
from renewer.config.quantities import format_duration
from renewer.errors import LeaseLostError, TransientError
from renewer.targets.identity import Identity, token_claims
from renewer.targets.servicebus import ReadySignature, SharedAccessKey
from renewer.targets.servicebus.credentials import WARN_BEFORE_S

if TYPE_CHECKING:
    from renewer.ports import Clock
    from renewer.targets.servicebus import NamespaceCredential
    from renewer.targets.servicebus.credentials import TokenProvider

IDENTITY_TIMEOUT_S: Final = 35.0
"""azure-identity tries one source after the other, some of them over the network."""

_ENTITY: Final = "any"
_MAX_ID: Final = 64


async def examine_credential(
    examination: Examination, name: str, credential: NamespaceCredential, provider: TokenProvider, clock: Clock
) -> bool:
    """Whether there is something to show to the broker of ``[servicebus.NAME]``."""
    match credential:
        case SharedAccessKey():
            return True  # What it is good for shows when the broker is asked.
        case ReadySignature():
            outcome = _judge_signature(credential, provider, clock)
            examination.add("signature", outcome)
            return outcome.value is not None
        case Identity():
            found = await examination.check(
                "identity",
                functools.partial(_get_token, credential, provider, clock),
                remedy=f"correct credential and what goes with it in [servicebus.{name}], or give this machine an "
                "identity: AZURE_* variables, a workload or managed identity, or `az login`",
                timeout_s=IDENTITY_TIMEOUT_S,
            )
            return found is not None


def accepted(credential: NamespaceCredential) -> str:
    """What to say when the broker took the token."""
    match credential:
        case SharedAccessKey(name=name):
            return f"the key of {name!r} is accepted"
        case ReadySignature(name=name):
            return f"the signature of {name!r} is accepted"
        case Identity():
            return "the identity's token is accepted"


def without_remedy(error: LeaseLostError | TransientError, provider: TokenProvider) -> str:
    """The broker's words alone."""
    return str(error).removesuffix(f"; {provider.remedy}")


def permit(credential: NamespaceCredential, provider: TokenProvider, entity: str) -> str:
    """What to do where the broker knows us and yet lets us not at the entity."""
    if isinstance(credential, Identity):
        return provider.remedy
    return f"give the policy {credential.name!r} the right Listen on {entity}"


def _judge_signature(signature: ReadySignature, provider: TokenProvider, clock: Clock) -> Outcome[bool]:
    left_s = signature.ends_at - clock.utc_now().timestamp()
    end = datetime.fromtimestamp(signature.ends_at, UTC).isoformat(timespec="seconds")
    if left_s <= 0:
        # The broker has the last word, by its own clock; but what there is to fix is known.
        return fail(f"the SharedAccessSignature of {signature.name!r} ended at {end}", provider.remedy)
    seen = f"the SharedAccessSignature of {signature.name!r} is good for {_span(left_s)}, until {end}"
    if left_s <= WARN_BEFORE_S[0]:
        return warn(seen, "put a new one into the connection string in time, or use a key or an identity", True)
    return ok(seen, True)


async def _get_token(identity: Identity, provider: TokenProvider, clock: Clock) -> Outcome[bool]:
    await provider.prepare()
    token = await provider.token(_ENTITY)
    claims = token_claims(token.text) or {}
    who = claims.get("appid") or claims.get("azp") or claims.get("oid")
    whom = f" of {who}" if isinstance(who, str) and who.isprintable() and len(who) <= _MAX_ID else ""
    left_s = token.ends_at - clock.now()
    return ok(f"credential {identity.credential!r} gave a token{whom}, good for {_span(left_s)}", True)


def _span(span_s: float) -> str:
    for unit_s in (86_400, 3600, 60):
        if span_s >= 2 * unit_s:
            return format_duration(timedelta(seconds=span_s // unit_s * unit_s))
    return f"{span_s:.0f}s"
