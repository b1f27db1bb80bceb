"""The settings of a Microsoft Entra identity: which kind, and what azure-identity must know of it."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BeforeValidator, SecretStr

from renewer.config.findings import Finding, given_keys, one_of
from renewer.config.secretsource import SecretSource, resolve_secret
from renewer.config.section import EnvName, PathSetting, Section, lowered, secret_source
from renewer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from renewer.config.keylines import KeyPath


def _directory_id(value: object) -> str:
    # A tenant may also be named by one of its domains.
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?", value) is None:
        raise ValueError('must be an id such as "72f988bf-86f1-41af-91ab-2d7cd011db47"')
    return value


class IdentitySettings(Section):
    """Who asks for tokens, where azure-identity is to get them."""

    credential: Annotated[
        Literal[
            "default",
            "environment",
            "workload-identity",
            "managed-identity",
            "azure-cli",
            "client-secret",
            "certificate",
        ],
        BeforeValidator(lowered),
    ] = "default"
    tenant_id: Annotated[str, BeforeValidator(_directory_id)] | None = None
    client_id: Annotated[str, BeforeValidator(_directory_id)] | None = None
    client_secret: SecretStr | None = None
    client_secret_file: PathSetting | None = None
    client_secret_env: EnvName | None = None
    certificate_file: PathSetting | None = None

    def client_secret_source(self, section: str) -> SecretSource | None:
        """Where the client secret of the section (``servicebus.main``) comes from; None where there is none."""
        return secret_source(
            f"{section}.client_secret", self.client_secret, self.client_secret_file, self.client_secret_env
        )


SECRET_KEYS: Final = ("client_secret", "client_secret_file", "client_secret_env")
DETAIL_KEYS: Final = ("tenant_id", "client_id", *SECRET_KEYS, "certificate_file")
"""What may be said of an identity beside its kind."""

_TAKEN: Final[Mapping[str, tuple[str, ...]]] = {
    "default": ("tenant_id", "client_id"),
    "environment": (),
    "workload-identity": ("tenant_id", "client_id"),
    "managed-identity": ("client_id",),
    "azure-cli": ("tenant_id",),
    "client-secret": ("tenant_id", "client_id", *SECRET_KEYS),
    "certificate": ("tenant_id", "client_id", "certificate_file"),
}
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "client-secret": ("tenant_id", "client_id"),
    "certificate": ("tenant_id", "client_id", "certificate_file"),
}


def check_identity(settings: IdentitySettings, here: KeyPath, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Every mistake in the identity of the section at `here`. Reads the files named."""
    section, kind = ".".join(map(str, here)), settings.credential
    for key in given_keys(settings, DETAIL_KEYS):
        if key not in _TAKEN[kind]:
            fits = [name for name, keys in _TAKEN.items() if key in keys]
            yield Finding(
                (*here, key),
                f'has no effect with credential = "{kind}"; it goes with {", ".join(fits)}',
                ((*here, "credential"),),
            )
    missing = [key for key in _NEEDED.get(kind, ()) if getattr(settings, key) is None]
    source = settings.client_secret_source(section)
    if kind == "client-secret" and source is None:
        missing.append(f"one of {', '.join(SECRET_KEYS)}")
    if missing:
        uses = tuple((*here, key) for key in DETAIL_KEYS)
        yield Finding((*here, "credential"), f"needs also {' and '.join(missing)}", uses)
    yield from one_of(section, settings, SECRET_KEYS, here)
    if kind == "client-secret" and source is not None:
        try:
            resolve_secret(source, environ)
        except ConfigError as error:
            yield Finding((*here, source.setting.rpartition(".")[2]), error.problems[0].remedy)
    if kind == "certificate" and settings.certificate_file is not None:
        remedy = _certificate_problem(str(settings.certificate_file))
        if remedy is not None:
            yield Finding((*here, "certificate_file"), remedy)


def _certificate_problem(path: str) -> str | None:
    try:
        # The empty password keeps an encrypted key from being asked for at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path, password="")
    except ssl.SSLError:
        return "must name a file in PEM with a certificate and its private key, not encrypted"
    except OSError as error:
        return f"must name a readable file; {error.strerror}"
    return None
