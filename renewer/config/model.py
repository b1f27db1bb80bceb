"""The settings: what they are called, what they may be, what they are when nobody says, and what they turn into.

Each section is checked here value by value; what only makes sense together is checked in `renewer.config.checks`.
"""

from __future__ import annotations

import re
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from renewer.config.accounts import AzureSettings, FabricSettings
from renewer.config.gateways import GatewaySettings
from renewer.config.hosts import callable_hosts
from renewer.config.identity import IdentitySettings
from renewer.config.listen import TcpListen, UnixListen, parse_api_listen, parse_metrics_listen
from renewer.config.namespaces import parse_namespace, parse_proxy
from renewer.config.quantities import count_between, duration_between, number_between, size_between
from renewer.config.secretsource import SecretSource
from renewer.config.section import EnvName, GroupSetting, ModeSetting, PathSetting, Section, lowered, secret_source
from renewer.core.timing import RenewalPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_ENTITY_LENGTH = 400  # topic (260) and subscription (50) with the word between, and room to spare
_MAX_SESSION_ID_LENGTH = 128  # Service Bus quotas: "SessionId 128 characters"
_MAX_LABELS = 32
_ACQUIRE_MARGIN_S = 15.0


def _section_name(value: str) -> str:
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,62}", value) is None:
        raise ValueError("a section's name must be of letters, digits, _ and -, at most 63, the first a letter")
    return value


def _entity(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_ENTITY_LENGTH:
        raise ValueError('must be the name of a queue ("orders") or a subscription ("topic/Subscriptions/name")')
    parts = value.split("/")
    plain = value.isprintable() and not set(value) & set("?#\\@:") and all(part == part.strip() for part in parts)
    if not plain or not all(parts):
        raise ValueError('must be a bare name such as "orders" or "topic/Subscriptions/name": no URL, no empty part')
    if any(part.startswith("$") for part in parts):
        raise ValueError("must be an entity with sessions; the $ nodes and dead-letter queues have none")
    return value


def _session_id(value: object) -> str | None:
    if value is None or (isinstance(value, str) and len(value) <= _MAX_SESSION_ID_LENGTH):
        return value
    raise ValueError(f"must be text of at most {_MAX_SESSION_ID_LENGTH} characters, in quotes; absent: next available")


def _labels(value: dict[str, str]) -> dict[str, str]:
    if len(value) > _MAX_LABELS:
        raise ValueError(f"must be at most {_MAX_LABELS} labels")
    return value


SectionName: TypeAlias = Annotated[str, AfterValidator(_section_name)]
LabelName: TypeAlias = Annotated[str, Field(min_length=1, max_length=63)]
LabelValue: TypeAlias = Annotated[str, Field(max_length=255)]


class DaemonSettings(Section):
    """The process itself."""

    state_dir: PathSetting = Path("./var")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lowered)] = "info"
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(lowered)] = "auto"
    event_loop: Annotated[Literal["auto", "asyncio", "uvloop"], BeforeValidator(lowered)] = "auto"
    stop_timeout: Annotated[timedelta, duration_between("0s", "10m")] = timedelta(seconds=10)
    keep_ended: Annotated[timedelta, duration_between("1s", "365d")] = timedelta(hours=1)

    def uses_uvloop(self) -> bool:
        """Whether the event loop is uvloop's: where it is asked for, or may be, and is installed."""
        return self.event_loop != "asyncio" and find_spec("uvloop") is not None


class RegistrySettings(Section):
    """What survives the daemon, in `daemon.state_dir`."""

    synchronous: Annotated[Literal["full", "normal"], BeforeValidator(lowered)] = "full"
    inline_result: Annotated[int, size_between("0B", "16MiB")] = 64 * 1024


class ApiSettings(Section):
    """The control API."""

    listen: Annotated[UnixListen | TcpListen, BeforeValidator(parse_api_listen)] = UnixListen(
        Path("./var/renewer.sock")
    )
    socket_mode: ModeSetting = 0o660
    socket_group: GroupSetting | None = None
    key: SecretStr | None = None
    key_file: PathSetting | None = None
    key_env: EnvName | None = None
    max_leases: Annotated[int, count_between(1, 1_000_000)] = 20_000
    max_operations: Annotated[int, count_between(1, 1_000_000)] = 20_000

    def key_source(self) -> SecretSource | None:
        """Where the bearer key comes from; None where callers need none."""
        return secret_source("api.key", self.key, self.key_file, self.key_env)


class MetricsSettings(Section):
    """What Prometheus reads, and the page for people beside it."""

    listen: Annotated[TcpListen | None, BeforeValidator(parse_metrics_listen)] = TcpListen("127.0.0.1", 9464)
    page: bool | None = None

    def shows_page(self) -> bool:
        """Whether there is the page: as set, and where nothing is set for this machine alone."""
        if self.listen is None:
            return False
        return self.listen.is_loopback if self.page is None else self.page


class RenewalSettings(Section):
    """How every lease is kept, unless its own entry says otherwise."""

    due_fraction: Annotated[float, number_between(0.1, 0.8)] = 0.5
    jitter: Annotated[float, number_between(0.0, 0.5)] = 0.1
    max_interval: Annotated[timedelta, duration_between("1s", "9m")] = timedelta(minutes=4)
    attempt_fraction: Annotated[float, number_between(0.05, 0.34)] = 0.2
    max_attempt: Annotated[timedelta, duration_between("250ms", "1m")] = timedelta(seconds=10)
    backoff_cap: Annotated[timedelta, duration_between("100ms", "10m")] = timedelta(seconds=10)
    concurrency: Annotated[int, count_between(1, 65_536)] = 1024
    reacquire: bool = True
    max_duration: Annotated[timedelta, duration_between("1s", "365d")] | None = None


class ServiceBusSettings(IdentitySettings):
    """One Service Bus namespace, or another broker that speaks its protocol."""

    connection_string: SecretStr | None = None
    connection_string_file: PathSetting | None = None
    connection_string_env: EnvName | None = None
    fully_qualified_namespace: Annotated[str, BeforeValidator(parse_namespace)] | None = None
    transport: Annotated[Literal["amqp", "amqp-websocket", "rest"], BeforeValidator(lowered)] = "amqp"
    proxy: Annotated[str, BeforeValidator(parse_proxy)] | None = None
    lock_duration: Annotated[timedelta, duration_between("100ms", "1d")] | None = None
    assumed_lock_duration: Annotated[timedelta, duration_between("1s", "5m")] = timedelta(seconds=5)
    ca_file: PathSetting | None = None
    connect_timeout: Annotated[timedelta, duration_between("100ms", "5m")] = timedelta(seconds=15)
    idle_timeout: Annotated[timedelta, duration_between("1s", "10m")] = timedelta(seconds=60)
    sessions_per_connection: Annotated[int, count_between(1, 4000)] = 1000
    spread_after: Annotated[int, count_between(1, 4000)] = 250
    max_connections: Annotated[int, count_between(1, 5000)] = 50
    links_per_session: Annotated[int, count_between(2, 255)] = 200
    message_batch: Annotated[int, count_between(1, 1000)] = 100
    next_session_timeout: Annotated[timedelta, duration_between("1s", "1h")] = timedelta(seconds=60)
    message_size_limit: Annotated[int, size_between("1KiB", "100MiB")] = 256 * 1024

    def connection_string_source(self, name: str) -> SecretSource:
        """Where the connection string of the section called `name` comes from."""
        source = secret_source(
            f"servicebus.{name}.connection_string",
            self.connection_string,
            self.connection_string_file,
            self.connection_string_env,
        )
        return source or SecretSource(f"servicebus.{name}.connection_string")


class SessionSettings(Section):
    """A session that is held for as long as the daemon runs; or, with `sessions`, a pool of next available ones."""

    servicebus: str | None = None
    entity: Annotated[str, BeforeValidator(_entity)]
    session_id: Annotated[str | None, BeforeValidator(_session_id)] = None
    sessions: Annotated[int, count_between(1, 5000)] | None = None
    idle_timeout: Annotated[timedelta, duration_between("1s", "1d")] | None = None
    lock_duration: Annotated[timedelta, duration_between("100ms", "1d")] | None = None
    reacquire: bool | None = None
    max_duration: Annotated[timedelta, duration_between("1s", "365d")] | None = None
    labels: Annotated[dict[LabelName, LabelValue], AfterValidator(_labels)] = Field(default_factory=dict)


class CallbackSettings(Section):
    """The calls that tell owners what became of their leases and operations."""

    allow_hosts: Annotated[tuple[str, ...], BeforeValidator(callable_hosts)] = ()
    key: SecretStr | None = None
    key_file: PathSetting | None = None
    key_env: EnvName | None = None
    timeout: Annotated[timedelta, duration_between("100ms", "5m")] = timedelta(seconds=10)
    give_up: Annotated[timedelta, duration_between("1s", "365d")] = timedelta(days=1)

    def key_source(self) -> SecretSource | None:
        """Where the key that callbacks are signed with comes from; None where they are not signed."""
        return secret_source("callback.key", self.key, self.key_file, self.key_env)


class Settings(Section):
    """Everything that can be set. Made by `renewer.config.load`, which also checks what only makes sense together."""

    daemon: DaemonSettings = DaemonSettings()
    registry: RegistrySettings = RegistrySettings()
    api: ApiSettings = ApiSettings()
    metrics: MetricsSettings = MetricsSettings()
    renewal: RenewalSettings = RenewalSettings()
    servicebus: dict[SectionName, ServiceBusSettings] = Field(default_factory=dict)
    session: tuple[SessionSettings, ...] = ()
    gateway: tuple[GatewaySettings, ...] = ()
    fabric: dict[SectionName, FabricSettings] = Field(default_factory=dict)
    azure: dict[SectionName, AzureSettings] = Field(default_factory=dict)
    callback: CallbackSettings = CallbackSettings()

    def accounts(self) -> Iterator[tuple[str, FabricSettings | AzureSettings]]:
        """The accounts that operations can be followed on, with their whole names: ``fabric.main``."""
        for group in (self.fabric, self.azure):
            for name, section in group.items():
                yield f"{section.GROUP}.{name}", section

    def servicebus_name(self, section: SessionSettings | GatewaySettings) -> str | None:
        """The namespace that `section` belongs to: the one it names, or the only one; None where there is neither."""
        if section.servicebus is not None:
            return section.servicebus if section.servicebus in self.servicebus else None
        return next(iter(self.servicebus)) if len(self.servicebus) == 1 else None

    def gateway_name(self, gateway: GatewaySettings) -> str | None:
        """What `gateway` is called: by its own name, or that of its namespace; None where there is neither."""
        return gateway.name if gateway.name is not None else self.servicebus_name(gateway)

    def renewal_policy(self, servicebus: str | None = None) -> RenewalPolicy:
        """How leases on a namespace are kept (None: as ``[renewal]`` says), unless their own entries say otherwise."""
        renewal = self.renewal
        defaults = RenewalPolicy()
        attempt_s, timeout_s = defaults.acquire_attempt_s, defaults.acquire_timeout_s
        if servicebus is not None:
            # The broker may hold a request for the next session back for this long before it answers.
            patience_s = self.servicebus[servicebus].next_session_timeout.total_seconds()
            connect_s = self.servicebus[servicebus].connect_timeout.total_seconds()
            attempt_s = max(attempt_s, patience_s + max(connect_s, _ACQUIRE_MARGIN_S))
            timeout_s = max(timeout_s, patience_s)
        return RenewalPolicy(
            due_fraction=renewal.due_fraction,
            jitter=renewal.jitter,
            max_interval_s=renewal.max_interval.total_seconds(),
            attempt_fraction=renewal.attempt_fraction,
            max_attempt_s=renewal.max_attempt.total_seconds(),
            backoff_cap_s=renewal.backoff_cap.total_seconds(),
            acquire_attempt_s=attempt_s,
            acquire_timeout_s=timeout_s,
            reacquire=renewal.reacquire,
            max_duration_s=None if renewal.max_duration is None else renewal.max_duration.total_seconds(),
            retention_s=self.daemon.keep_ended.total_seconds(),
        )
