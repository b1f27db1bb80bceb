"""Shared access signatures: what a token says, and whether it is genuine."""

from __future__ import annotations

import hmac
from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import unquote_plus

from renewer.emulator.broker.addresses import covers, entity_path

_PREFIX = "SharedAccessSignature "


@dataclass(frozen=True, slots=True)
class SasToken:
    """The fields of `SharedAccessSignature sr=…&sig=…&se=…&skn=…`."""

    resource: str
    """The URI that it is good for, as it was signed: still encoded."""
    expiry: str
    """Unix seconds, as signed."""
    key_name: str
    signature: str = field(repr=False)

    @property
    def expires_at(self) -> float:
        """Unix seconds."""
        return float(self.expiry)

    def is_genuine(self, key_name: str, key: str) -> bool:
        """Whether it was signed with this key."""
        signed = f"{self.resource}\n{self.expiry}".encode()
        expected = b64encode(hmac.new(key.encode(), signed, sha256).digest()).decode()
        genuine = hmac.compare_digest(expected.encode(), self.signature.encode())
        return genuine and hmac.compare_digest(key_name.encode(), self.key_name.encode())

    def covers(self, audience: str) -> bool:
        """Whether it is good for what it is presented for."""
        return covers(entity_path(unquote_plus(self.resource)), entity_path(audience))


def parse_sas(token: str) -> SasToken | None:
    """The token's fields, None if it is no shared access signature."""
    if not token.startswith(_PREFIX):
        return None
    fields: dict[str, str] = {}
    for part in token[len(_PREFIX) :].split("&"):
        name, _, value = part.partition("=")
        fields[name] = value
    try:
        parsed = SasToken(fields["sr"], fields["se"], unquote_plus(fields["skn"]), unquote_plus(fields["sig"]))
    except KeyError:
        return None
    return parsed if parsed.expiry.isascii() and parsed.expiry.isdigit() and len(parsed.expiry) < 16 else None
