"""`[[gateway]]`: where workers with an SDK of their own come in, who may, and what is done with their locks."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BeforeValidator, SecretStr

from renewer.config.listen import TcpListen, UnixListen, parse_gateway_listen
from renewer.config.quantities import count_between, duration_between, parse_duration
from renewer.config.secretsource import SecretSource
from renewer.config.section import EnvName, GroupSetting, ModeSetting, PathSetting, Section, lowered, secret_source

_MAX_ENTITY_LENGTH: Final = 400
_MAX_ENTITIES: Final = 1000
_PATTERN_FORM: Final = (
    'an entity or a pattern, such as "orders", "events/Subscriptions/*" or "*" for all: no URL, no empty part, no $'
)
_MAX_NAMED: Final = 10
_SHORTEST: Final = timedelta(seconds=1)
_LONGEST: Final = timedelta(days=365)


def _gateway_name(value: object) -> str:
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,62}", value) is None:
        raise ValueError("must be of letters, digits, _ and -, at most 63, the first a letter")
    return value


def _key_name(value: object) -> str:
    # SDKs put it into their tokens as it is: whatever has a meaning there could not be told from it.
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", value) is None:
        raise ValueError('must be of letters, digits, ".", _ and -, at most 63, as in SharedAccessKeyName=local')
    return value


def _pattern(value: object) -> str:
    if not isinstance(value, str) or not is_pattern(value):
        raise ValueError(f"must be {_PATTERN_FORM}")
    return value


def _patterns(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= _MAX_ENTITIES:
        raise ValueError(f"must be a list of at least one, each {_PATTERN_FORM}")
    wrong = [str(number) for number, item in enumerate(value, start=1) if not is_pattern(item)]
    if wrong:
        raise ValueError(f"must be a list, each {_PATTERN_FORM}; wrong: number {', '.join(wrong[:_MAX_NAMED])}")
    return tuple(value)


def is_pattern(value: object) -> bool:
    """Whether this names an entity, or entities by ``*``; their dead-letter queues belong to them."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_ENTITY_LENGTH or not value.isprintable():
        return False
    parts = value.split("/")
    return not set(value) & set("?#\\@:%$;") and all(part and part == part.strip() and part != ".." for part in parts)


def _longest(value: object) -> timedelta | Literal["off"]:
    if isinstance(value, str) and value.strip().lower() == "off":
        return "off"
    try:
        span = parse_duration(value)
    except ValueError:
        span = timedelta(0)
    if not _SHORTEST <= span <= _LONGEST:
        raise ValueError('must be a duration from 1s to 365d, or "off" for as long as the worker lives')
    return span


_Longest: TypeAlias = Annotated[timedelta | Literal["off"], BeforeValidator(_longest)]
_Shown: TypeAlias = Annotated[Literal["extended", "true"], BeforeValidator(lowered)]


class GatewayKeySettings(Section):
    """A key that lets workers in, and what they may use."""

    name: Annotated[str, BeforeValidator(_key_name)]
    key: SecretStr | None = None
    key_file: PathSetting | None = None
    key_env: EnvName | None = None
    entities: Annotated[tuple[str, ...], BeforeValidator(_patterns)]

    def key_source(self, here: str) -> SecretSource | None:
        """Where the key of the section at `here` (``gateway[0].key[0]``) comes from; None where nothing says."""
        return secret_source(f"{here}.key", self.key, self.key_file, self.key_env)


class GatewayRenewSettings(Section):
    """What is done with the locks that workers hold, unless [[gateway.entity]] says otherwise."""

    sessions: bool = True
    messages: bool = True
    max_duration: _Longest | None = None


class GatewayEntitySettings(Section):
    """The same for the entities that a name or a pattern covers; what it leaves out is as for all."""

    entity: Annotated[str, BeforeValidator(_pattern)]
    sessions: bool | None = None
    messages: bool | None = None
    max_duration: _Longest | None = None
    show_lock_until: _Shown | None = None


class GatewaySettings(Section):
    """An address at which workers find the namespace with nothing but another connection string."""

    listen: Annotated[TcpListen | UnixListen, BeforeValidator(parse_gateway_listen)] = TcpListen("127.0.0.1", 5672)
    name: Annotated[str, BeforeValidator(_gateway_name)] | None = None
    servicebus: str | None = None
    show_lock_until: _Shown = "extended"
    tls_cert_file: PathSetting | None = None
    tls_key_file: PathSetting | None = None
    socket_mode: ModeSetting = 0o660
    socket_group: GroupSetting | None = None
    max_connections: Annotated[int, count_between(1, 100_000)] = 1000
    login_timeout: Annotated[timedelta, duration_between("1s", "5m")] = timedelta(seconds=20)
    token_leniency: Annotated[timedelta, duration_between("0s", "1h")] = timedelta(minutes=5)
    key: tuple[GatewayKeySettings, ...] = ()
    renew: GatewayRenewSettings = GatewayRenewSettings()
    entity: tuple[GatewayEntitySettings, ...] = ()
