"""What does not go together in the section of an account, and between those that have one identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from renewer.config.findings import Finding, given_keys, one_of
from renewer.config.identity import DETAIL_KEYS, check_identity
from renewer.config.quantities import format_duration
from renewer.config.secretsource import resolve_secret
from renewer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from renewer.config.accounts import AccountSettings
    from renewer.config.keylines import KeyPath
    from renewer.config.model import Settings
    from renewer.config.secretsource import SecretSource

_TOKEN_KEYS: Final = ("token", "token_file", "token_env")
_SPANS: Final = (
    ("poll_floor", "poll_ceiling"),
    ("poll_floor", "default_interval"),
    ("default_interval", "poll_ceiling"),
    ("poll_floor", "early_probe"),
    ("early_probe", "deadline"),
    ("not_found_grace", "deadline"),
    ("refused_grace", "deadline"),
    ("request_timeout", "deadline"),
)
"""Pairs of which the first may be no longer than the second."""


def check_accounts(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Every mistake in ``[fabric.NAME]`` and ``[azure.NAME]``. Reads the files named."""
    for group in (settings.fabric, settings.azure):
        for name, account in group.items():
            yield from _check_account(name, account, environ)
    yield from _check_quotas(settings)


def check_bearer(source: SecretSource, here: KeyPath, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether what is to be sent as a bearer token can be had, and can be sent."""
    at = (*here, source.setting.rpartition(".")[2])
    try:
        secret = resolve_secret(source, environ).get_secret_value()
    except ConfigError as error:
        yield Finding(at, error.problems[0].remedy)
        return
    if not secret.isascii() or " " in secret:
        yield Finding(at, "must be of ASCII letters, digits and signs without spaces, as HTTP headers carry it")


def _check_account(name: str, account: AccountSettings, environ: Mapping[str, str]) -> Iterator[Finding]:
    here: KeyPath = (account.GROUP, name)
    yield from one_of(f"{account.GROUP}.{name}", account, (*_TOKEN_KEYS, "credential"), here)
    source = account.token_source(name)
    if source is None:
        yield from check_identity(account, here, environ)
    else:
        yield from check_bearer(source, here, environ)
        for key in given_keys(account, ("scope", *DETAIL_KEYS)):
            yield Finding((*here, key), "has no effect with a token of your own: it goes with credential")
    yield from _check_spans(account, here)


def _check_spans(account: AccountSettings, here: KeyPath) -> Iterator[Finding]:
    # A bound that was not given makes room for one that was; two that were given must agree.
    given = account.model_fields_set
    for low, high in _SPANS:
        least, most = getattr(account, low), getattr(account, high)
        if least is None or most is None:
            continue
        both = {low, high} <= given
        if least > most and (both or (low, high) == ("poll_floor", "poll_ceiling")):
            culprit, other, word, bound = (low, high, "most", most) if low in given else (high, low, "least", least)
            yield Finding(
                (*here, culprit), f"must be at {word} {other}, which is {format_duration(bound)}", ((*here, other),)
            )


def _check_quotas(settings: Settings) -> Iterator[Finding]:
    """Sections that are one identity at one host have their quotas in common: what they say of them must agree."""
    first: dict[tuple[object, ...], tuple[str, KeyPath, object]] = {}
    for whole_name, account in settings.accounts():
        here: KeyPath = tuple(whole_name.split(".", 1))
        for key, value in _said_of_quotas(account):
            named = (account.identity_key(), key)
            if named not in first:
                first[named] = (whole_name, (*here, key), value)
                continue
            other, where, said = first[named]
            if value != said:
                yield Finding(
                    (*here, key),
                    f"must be as in [{other}], which has the same token at the same host and so the same quotas; or "
                    "say it in one of them",
                    (where,),
                )


def _said_of_quotas(account: AccountSettings) -> Iterator[tuple[str, object]]:
    for key in ("limits", "concurrency"):
        if key in account.model_fields_set:
            yield key, getattr(account, key)
