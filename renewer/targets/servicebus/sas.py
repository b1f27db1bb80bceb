"""Shared access signatures: tokens made from a key, for one audience, until one moment."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import quote_plus


def shared_access_signature(audience: str, *, key_name: str, key: str, expires_at: int) -> str:
    """A token for `audience` that is valid until `expires_at` (seconds since the epoch). The result is a secret.

    The signature is HMAC-SHA256 over the encoded audience and the expiry, keyed with the key's text as it stands.
    """
    resource = quote_plus(audience, safe="")
    digest = hmac.new(key.encode(), f"{resource}\n{expires_at}".encode(), hashlib.sha256).digest()
    signature = quote_plus(base64.b64encode(digest).decode(), safe="")
    return f"SharedAccessSignature sr={resource}&sig={signature}&se={expires_at}&skn={quote_plus(key_name, safe='')}"
