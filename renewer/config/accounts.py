"""The settings of accounts that operations are followed on: Microsoft Fabric's, and those of any Azure service."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, ClassVar, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo

from renewer.config.hosts import trusted_hosts
from renewer.config.identity import IdentitySettings
from renewer.config.listen import is_host, is_loopback
from renewer.config.quantities import count_between, duration_between, size_between
from renewer.config.ratelimits import AzureLimits, FabricLimits, LimitSettings
from renewer.config.secretsource import SecretSource
from renewer.config.section import EnvName, PathSetting, Section, secret_source
from renewer.core.timing import PollPolicy

_Limits = TypeVar("_Limits", bound=LimitSettings)


_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|\Z)", re.IGNORECASE)


def _base_url(value: object) -> str:
    form = "must be an https URL such as https://api.fabric.microsoft.com/v1 or https://management.azure.com"
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        raise ValueError(form)
    try:
        url = urlsplit(value)
        host, port = url.hostname, url.port
    except ValueError:
        raise ValueError(form) from None
    if url.scheme not in {"http", "https"} or host is None or not is_host(host) or port == 0:
        raise ValueError(form)
    if url.query or url.fragment or "@" in url.netloc:
        raise ValueError(f"{form}: no user, no query, no fragment")
    if not value.isascii() or "//" in url.path or _DOT_SEGMENT.search(url.path) or "\\" in value:
        raise ValueError(f"{form}: no empty, . or .. segments, and all in ASCII")
    if url.scheme == "http" and not is_loopback(host):
        raise ValueError("must be https: plain http, which shows the token to the network, is for loopback alone")
    return value.rstrip("/")


def _scope(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or " " in value:
        raise ValueError("must be a scope such as https://management.azure.com/.default")
    return value


def _none_on_this_machine(limits: _Limits, info: ValidationInfo) -> _Limits:
    """What a service in the cloud counts an emulator does not: on loopback there are the limits that were set."""
    if not is_loopback(urlsplit(info.data.get("base_url", "")).hostname or ""):
        return limits
    return limits.model_copy(update=dict.fromkeys(type(limits).model_fields.keys() - limits.model_fields_set))


class _HostSettings(Section):
    """The host, and a token of one's own for it."""

    base_url: Annotated[str, BeforeValidator(_base_url)]
    allow_hosts: Annotated[tuple[str, ...], BeforeValidator(trusted_hosts)] = ()
    token: SecretStr | None = None
    token_file: PathSetting | None = None
    token_env: EnvName | None = None


class AccountSettings(IdentitySettings, _HostSettings):
    """One identity, the host where its operations live, and how they are followed; each kind adds its `limits`."""

    GROUP: ClassVar[str]
    """What sections of this kind are called: ``[GROUP.NAME]``."""

    scope: Annotated[str, BeforeValidator(_scope)]
    poll_floor: Annotated[timedelta, duration_between("1ms", "1h")] = timedelta(seconds=1)
    default_interval: Annotated[timedelta, duration_between("1ms", "1d")] = timedelta(seconds=30)
    poll_ceiling: Annotated[timedelta, duration_between("1ms", "1d")] = timedelta(hours=1)
    deadline: Annotated[timedelta, duration_between("1s", "365d")] = timedelta(days=1)
    not_found_grace: Annotated[timedelta, duration_between("0s", "1d")] = timedelta(minutes=2)
    refused_grace: Annotated[timedelta, duration_between("0s", "1d")] = timedelta(minutes=10)
    early_probe: Annotated[timedelta, duration_between("100ms", "5m")] | None = None
    keep_ended: Annotated[timedelta, duration_between("1s", "365d")] = timedelta(days=1)
    request_timeout: Annotated[timedelta, duration_between("100ms", "10m")] = timedelta(seconds=60)
    fetch_timeout: Annotated[timedelta, duration_between("1s", "1d")] = timedelta(minutes=15)
    max_result: Annotated[int, size_between("1KiB", "4GiB")] = 64 * 1024 * 1024
    concurrency: Annotated[int, count_between(1, 4096)] = 64

    def token_source(self, name: str) -> SecretSource | None:
        """Where the token of the section called `name` comes from; None: azure-identity, by `credential`."""
        return secret_source(f"{self.GROUP}.{name}.token", self.token, self.token_file, self.token_env)

    def token_key(self) -> tuple[object, ...]:
        """Equal for sections whose tokens come from the same place."""
        if self.token is not None or self.token_file is not None or self.token_env is not None:
            return self.token, None if self.token_file is None else self.token_file.absolute(), self.token_env
        return (self.scope, *(getattr(self, key) for key in IdentitySettings.model_fields))

    def identity_key(self) -> tuple[object, ...]:
        """Equal for sections that are the same to the service, which counts their requests together."""
        url = urlsplit(self.base_url)
        port = url.port or (443 if url.scheme == "https" else 80)
        return self.GROUP, url.scheme, (url.hostname or "").removesuffix("."), port, self.token_key()

    def poll_policy(self) -> PollPolicy:
        """How operations of this identity are followed."""
        return PollPolicy(
            floor_s=self.poll_floor.total_seconds(),
            ceiling_s=self.poll_ceiling.total_seconds(),
            default_interval_s=self.default_interval.total_seconds(),
            not_found_grace_s=self.not_found_grace.total_seconds(),
            refused_grace_s=self.refused_grace.total_seconds(),
            early_probe_s=None if self.early_probe is None else self.early_probe.total_seconds(),
            retention_s=self.keep_ended.total_seconds(),
            deadline_s=self.deadline.total_seconds(),
            attempt_s=self.request_timeout.total_seconds(),
            fetch_s=self.fetch_timeout.total_seconds(),
        )


class FabricSettings(AccountSettings):
    """One Microsoft Fabric identity."""

    GROUP: ClassVar[str] = "fabric"

    base_url: Annotated[str, BeforeValidator(_base_url)] = "https://api.fabric.microsoft.com/v1"
    scope: Annotated[str, BeforeValidator(_scope)] = "https://api.fabric.microsoft.com/.default"
    limits: Annotated[FabricLimits, AfterValidator(_none_on_this_machine)] = Field(
        FabricLimits(), validate_default=True
    )


class AzureSettings(AccountSettings):
    """One identity at Azure Resource Manager, or at any other Azure service with long-running operations."""

    GROUP: ClassVar[str] = "azure"

    base_url: Annotated[str, BeforeValidator(_base_url)] = "https://management.azure.com"
    scope: Annotated[str, BeforeValidator(_scope)] = "https://management.azure.com/.default"
    limits: Annotated[AzureLimits, AfterValidator(_none_on_this_machine)] = Field(AzureLimits(), validate_default=True)
