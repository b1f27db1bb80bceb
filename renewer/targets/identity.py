"""Microsoft Entra identities: which kinds there are, what each takes, and how azure-identity opens one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from renewer.errors import UsageError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


class AccessToken(Protocol):
    """What a credential of azure-core gives: the token, and when it ends in seconds since the epoch."""

    @property
    def token(self) -> str:
        """The bearer token."""
        ...

    @property
    def expires_on(self) -> int:
        """Seconds since the epoch."""
        ...


class Credential(Protocol):
    """A credential as in azure.identity.aio."""

    async def get_token(self, *scopes: str) -> AccessToken:
        """A token for `scopes`."""
        ...


_TOKEN_TEXT_MAX = 64 * 1024
_CREDENTIALS = {
    "default": "DefaultAzureCredential",
    "environment": "EnvironmentCredential",
    "workload-identity": "WorkloadIdentityCredential",
    "managed-identity": "ManagedIdentityCredential",
    "azure-cli": "AzureCliCredential",
    "client-secret": "ClientSecretCredential",
    "certificate": "CertificateCredential",
}
CREDENTIAL_NAMES = tuple(_CREDENTIALS)
"""The kinds of identities, by name."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks for tokens.

    `client_id` names a user-assigned managed identity, or the application of the kinds that are one. `client_secret`
    gives the secret when it is needed, for it may have been replaced meanwhile; so may the certificate (PEM, with its
    key) in `certificate_file`. Raises UsageError for an unknown kind, and for `client-secret` and `certificate` where
    something is missing.
    """

    credential: str = "default"
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: Callable[[], str] | None = field(default=None, repr=False)
    certificate_file: str | None = None

    def __post_init__(self) -> None:
        if self.credential not in _CREDENTIALS:
            known = ", ".join(CREDENTIAL_NAMES)
            raise UsageError(f"credential: {self.credential!r} is not known; use one of {known}")
        needs = {
            "client-secret": ("tenant_id", "client_id", "client_secret"),
            "certificate": ("tenant_id", "client_id", "certificate_file"),
        }
        missing = [name for name in needs.get(self.credential, ()) if getattr(self, name) is None]
        if missing:
            raise UsageError(f"credential: {self.credential!r} needs {', '.join(missing)}")

    def opener(self) -> Callable[[], AbstractAsyncContextManager[Credential]]:
        """What opens a credential of azure-identity. Imports it, which takes a good part of a second."""
        from azure.identity import aio

        kind: Any = getattr(aio, _CREDENTIALS[self.credential])
        return lambda: kind(**self._arguments())

    def _arguments(self) -> dict[str, str]:
        given: dict[str, str | None]
        match self.credential:
            case "default":
                given = {
                    "managed_identity_client_id": self.client_id,
                    "workload_identity_client_id": self.client_id,
                    "workload_identity_tenant_id": self.tenant_id,
                }
            case "managed-identity":
                given = {"client_id": self.client_id}
            case "azure-cli":
                given = {"tenant_id": self.tenant_id}
            case "client-secret":
                secret = None if self.client_secret is None else self.client_secret()
                given = {"tenant_id": self.tenant_id, "client_id": self.client_id, "client_secret": secret}
            case "certificate":
                given = {
                    "tenant_id": self.tenant_id,
                    "client_id": self.client_id,
                    "certificate_path": self.certificate_file,
                }
            case "workload-identity":
                given = {"tenant_id": self.tenant_id, "client_id": self.client_id}
            case _:
                given = {}
        return {name: value for name, value in given.items() if value is not None}


def token_claims(token: str) -> dict[str, Any] | None:
    """What a token in JWT form says of itself, unverified: for showing and for arithmetic, not for believing it."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _TOKEN_TEXT_MAX:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def signed_lifetime_s(token: str) -> float | None:
    """How long a token in JWT form was made to last, by its issuer's clock alone; None if it does not say."""
    claims = token_claims(token) or {}
    issued_at, expires_at = claims.get("iat"), claims.get("exp")
    if type(issued_at) is not int or type(expires_at) is not int or expires_at <= issued_at:
        return None
    return float(expires_at - issued_at)
