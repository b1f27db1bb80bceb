"""Claims-based security: what a token that is put on `$cbs` is good for, and until when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from renewer.emulator.broker import refusals
from renewer.emulator.broker.addresses import entity_path
from renewer.emulator.broker.sas import parse_sas

if TYPE_CHECKING:
    from collections.abc import Mapping

    from renewer.emulator.broker.specs import BrokerOptions

PUT_TOKEN = "put-token"

_EXPIRED = "ExpiredToken: the token has expired."


@dataclass(frozen=True, slots=True)
class Grant:
    """A token that was taken: the path that it covers, and for how many seconds (None: for good)."""

    path: str
    lasts_s: float | None


def judge_token(token: object, properties: Mapping[str, object], options: BrokerOptions, utc_s: float) -> Grant:
    """Look at a put-token request. Raises `RefusedError` if it makes no sense or the token is not good.

    The type that the request gives is not looked at: azure-servicebus 7.15 calls signatures `jwt`.
    """
    audience = properties.get("name")
    if properties.get("operation") != PUT_TOKEN or not isinstance(audience, str) or not isinstance(token, str):
        raise refusals.argument_error("A put-token request needs the name of what it is for and a token.")
    signature = parse_sas(token)
    is_expired = signature is not None and signature.expires_at <= utc_s
    if options.key_name is None or options.key is None:
        if is_expired:
            # Who signed it does not matter here, but what it says of itself does, as at the service.
            raise refusals.unauthorized(_EXPIRED)
        signed_expiry = None if signature is None else signature.expires_at
        return Grant(entity_path(audience), _lenient_lifetime(properties, signed_expiry, utc_s))
    if signature is None or not signature.is_genuine(options.key_name, options.key):
        raise refusals.unauthorized("InvalidSignature: the token has an invalid signature.")
    if is_expired:
        raise refusals.unauthorized(_EXPIRED)
    if not signature.covers(audience):
        raise refusals.unauthorized("InvalidAudience: the token is for something else.")
    return Grant(entity_path(audience), signature.expires_at - utc_s)


def _lenient_lifetime(properties: Mapping[str, object], signed_expiry: float | None, utc_s: float) -> float | None:
    """Any token will do that is not over; if it, or who puts it, says an end that is to come, that holds."""
    expiration = properties.get("expiration")
    ends_at = expiration / 1000 if isinstance(expiration, int) else signed_expiry
    return ends_at - utc_s if ends_at is not None and ends_at > utc_s else None
