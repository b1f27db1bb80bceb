"""The settings: what they are called, what they may be, what they are when nobody says, and what they turn into.

Each section is checked here value by value; what only makes sense together is checked in `renewer.config.checks`.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from renewer.config.listen import TcpListen, UnixListen, is_host, is_loopback, parse_api_listen, parse_metrics_listen
from renewer.config.quantities import count_between, duration_between, number_between, size_between
from renewer.config.secretsource import SecretSource, parse_env_name
from renewer.core.timing import PollPolicy, RenewalPolicy

_MAX_ENTITY_LENGTH = 400  # topic (260) and subscription (50) with the word between, and room to spare
_MAX_SESSION_ID_LENGTH = 128  # Service Bus quotas: "SessionId 128 characters"
_MAX_LABELS = 32
_ACQUIRE_MARGIN_S = 15.0
_HOST_ENTRY = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<any>\*\.)?(?P<name>[A-Za-z0-9._-]{1,253}))(?::(?P<port>[0-9]{1,5}))?"
)


def _lowered(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _path(value: object) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("must be a path, as text")
    return Path(value)


def _octal_mode(value: object) -> int:
    # Numbers are refused: the octal 0o660 and a decimal 432 cannot be told apart, and 660 would mean 0o1224.
    if not isinstance(value, str) or re.fullmatch(r"0?[0-7]{3}", value) is None:
        raise ValueError('must be a file mode in octal, as text, such as "0660"')
    mode = int(value, 8)
    if mode & 0o600 != 0o600:
        raise ValueError("must let the owner read and write, such as 0660 or 0600")
    return mode


def _group(value: object) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if number else value
    if not isinstance(text, str) or re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?", text) is None:
        raise ValueError('must be the name or the number of a group, such as "renewer"')
    return text


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


def _base_url(value: object) -> str:
    form = "must be an https URL such as https://api.fabric.microsoft.com/v1"
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
    if url.scheme == "http" and not is_loopback(host):
        raise ValueError("must be https: plain http, which shows the token to the network, is for loopback alone")
    return value.rstrip("/")


def _scope(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or " " in value:
        raise ValueError("must be a scope such as https://api.fabric.microsoft.com/.default")
    return value


def _callable_hosts(value: object) -> tuple[str, ...]:
    form = 'a host such as "hooks.example.com", "hooks.example.com:8443" or "*.example.com"'
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list, each entry {form}")  # noqa: TRY004 - pydantic makes a finding of ValueError
    wrong = [str(number) for number, entry in enumerate(value, start=1) if not _is_callable_host(entry)]
    if wrong:
        raise ValueError(f"must be a list, each entry {form}; wrong: number {', '.join(wrong[:10])}")
    return tuple(str(entry).lower() for entry in value)


def _is_callable_host(entry: object) -> bool:
    match = _HOST_ENTRY.fullmatch(entry) if isinstance(entry, str) else None
    if match is None or not is_host(match["v6"] or match["name"]):
        return False
    # A whole top-level domain is nobody's.
    return 0 < int(match["port"] or 443) < 65_536 and (not match["any"] or "." in match["name"])


PathSetting: TypeAlias = Annotated[Path, BeforeValidator(_path)]
EnvName: TypeAlias = Annotated[str, BeforeValidator(parse_env_name)]
SectionName: TypeAlias = Annotated[str, AfterValidator(_section_name)]
LabelName: TypeAlias = Annotated[str, Field(min_length=1, max_length=63)]
LabelValue: TypeAlias = Annotated[str, Field(max_length=255)]


class Section(BaseModel):
    """Base of all sections: nothing unknown, nothing changed later, nothing given away in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class DaemonSettings(Section):
    """The process itself."""

    state_dir: PathSetting = Path("./var")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lowered)] = "info"
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(_lowered)] = "auto"
    stop_timeout: Annotated[timedelta, duration_between("0s", "10m")] = timedelta(seconds=10)
    keep_ended: Annotated[timedelta, duration_between("1s", "365d")] = timedelta(hours=1)


class RegistrySettings(Section):
    """What survives the daemon, in `daemon.state_dir`."""

    synchronous: Annotated[Literal["full", "normal"], BeforeValidator(_lowered)] = "full"
    inline_result: Annotated[int, size_between("0B", "16MiB")] = 64 * 1024


class ApiSettings(Section):
    """The control API."""

    listen: Annotated[UnixListen | TcpListen, BeforeValidator(parse_api_listen)] = UnixListen(
        Path("./var/renewer.sock")
    )
    socket_mode: Annotated[int, BeforeValidator(_octal_mode)] = 0o660
    socket_group: Annotated[str, BeforeValidator(_group)] | None = None
    key: SecretStr | None = None
    key_file: PathSetting | None = None
    key_env: EnvName | None = None
    max_leases: Annotated[int, count_between(1, 1_000_000)] = 20_000
    max_operations: Annotated[int, count_between(1, 1_000_000)] = 20_000

    def key_source(self) -> SecretSource | None:
        """Where the bearer key comes from; None where callers need none."""
        return _secret_source("api.key", self.key, self.key_file, self.key_env)


class MetricsSettings(Section):
    """The page that Prometheus reads."""

    listen: Annotated[TcpListen | None, BeforeValidator(parse_metrics_listen)] = TcpListen("127.0.0.1", 9464)


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


class ServiceBusSettings(Section):
    """One Service Bus namespace, or another broker that speaks its protocol."""

    connection_string: SecretStr | None = None
    connection_string_file: PathSetting | None = None
    connection_string_env: EnvName | None = None
    lock_duration: Annotated[timedelta, duration_between("100ms", "1d")] | None = None
    assumed_lock_duration: Annotated[timedelta, duration_between("1s", "5m")] = timedelta(seconds=5)
    ca_file: PathSetting | None = None
    connect_timeout: Annotated[timedelta, duration_between("100ms", "5m")] = timedelta(seconds=15)
    idle_timeout: Annotated[timedelta, duration_between("1s", "10m")] = timedelta(seconds=60)
    sessions_per_connection: Annotated[int, count_between(1, 4000)] = 1000
    spread_after: Annotated[int, count_between(1, 4000)] = 250
    links_per_session: Annotated[int, count_between(2, 255)] = 200
    next_session_timeout: Annotated[timedelta, duration_between("1s", "1h")] = timedelta(seconds=60)

    def connection_string_source(self, name: str) -> SecretSource:
        """Where the connection string of the section called `name` comes from."""
        source = _secret_source(
            f"servicebus.{name}.connection_string",
            self.connection_string,
            self.connection_string_file,
            self.connection_string_env,
        )
        return source or SecretSource(f"servicebus.{name}.connection_string")


class SessionSettings(Section):
    """A session that is held for as long as the daemon runs."""

    servicebus: str | None = None
    entity: Annotated[str, BeforeValidator(_entity)]
    session_id: Annotated[str | None, BeforeValidator(_session_id)] = None
    lock_duration: Annotated[timedelta, duration_between("100ms", "1d")] | None = None
    reacquire: bool | None = None
    max_duration: Annotated[timedelta, duration_between("1s", "365d")] | None = None
    labels: Annotated[dict[LabelName, LabelValue], AfterValidator(_labels)] = Field(default_factory=dict)


class FabricSettings(Section):
    """One Microsoft Fabric identity and the host where its operations live."""

    base_url: Annotated[str, BeforeValidator(_base_url)] = "https://api.fabric.microsoft.com/v1"
    token: SecretStr | None = None
    token_file: PathSetting | None = None
    token_env: EnvName | None = None
    credential: Literal["default"] = "default"
    scope: Annotated[str, BeforeValidator(_scope)] = "https://api.fabric.microsoft.com/.default"
    poll_floor: Annotated[timedelta, duration_between("1ms", "1h")] = timedelta(seconds=1)
    default_interval: Annotated[timedelta, duration_between("1ms", "1d")] = timedelta(seconds=30)
    poll_ceiling: Annotated[timedelta, duration_between("1ms", "1d")] = timedelta(hours=1)
    deadline: Annotated[timedelta, duration_between("1s", "365d")] = timedelta(days=1)
    not_found_grace: Annotated[timedelta, duration_between("0s", "1d")] = timedelta(minutes=2)
    keep_ended: Annotated[timedelta, duration_between("1s", "365d")] = timedelta(days=1)
    request_timeout: Annotated[timedelta, duration_between("100ms", "10m")] = timedelta(seconds=60)
    max_result: Annotated[int, size_between("1KiB", "4GiB")] = 64 * 1024 * 1024
    concurrency: Annotated[int, count_between(1, 4096)] = 64

    def token_source(self, name: str) -> SecretSource | None:
        """Where the token of the section called `name` comes from; None: azure-identity, by `credential`."""
        return _secret_source(f"fabric.{name}.token", self.token, self.token_file, self.token_env)

    def poll_policy(self) -> PollPolicy:
        """How operations of this identity are followed."""
        return PollPolicy(
            floor_s=self.poll_floor.total_seconds(),
            ceiling_s=self.poll_ceiling.total_seconds(),
            default_interval_s=self.default_interval.total_seconds(),
            not_found_grace_s=self.not_found_grace.total_seconds(),
            retention_s=self.keep_ended.total_seconds(),
            deadline_s=self.deadline.total_seconds(),
            attempt_s=self.request_timeout.total_seconds(),
        )


class CallbackSettings(Section):
    """The calls that tell owners what became of their leases and operations."""

    allow_hosts: Annotated[tuple[str, ...], BeforeValidator(_callable_hosts)] = ()
    key: SecretStr | None = None
    key_file: PathSetting | None = None
    key_env: EnvName | None = None
    timeout: Annotated[timedelta, duration_between("100ms", "5m")] = timedelta(seconds=10)
    give_up: Annotated[timedelta, duration_between("1s", "365d")] = timedelta(days=1)

    def key_source(self) -> SecretSource | None:
        """Where the key that callbacks are signed with comes from; None where they are not signed."""
        return _secret_source("callback.key", self.key, self.key_file, self.key_env)


class Settings(Section):
    """Everything that can be set. Made by `renewer.config.load`, which also checks what only makes sense together."""

    daemon: DaemonSettings = DaemonSettings()
    registry: RegistrySettings = RegistrySettings()
    api: ApiSettings = ApiSettings()
    metrics: MetricsSettings = MetricsSettings()
    renewal: RenewalSettings = RenewalSettings()
    servicebus: dict[SectionName, ServiceBusSettings] = Field(default_factory=dict)
    session: tuple[SessionSettings, ...] = ()
    fabric: dict[SectionName, FabricSettings] = Field(default_factory=dict)
    callback: CallbackSettings = CallbackSettings()

    def servicebus_name(self, session: SessionSettings) -> str | None:
        """The section that `session` belongs to: the one it names, or the only one; None where there is neither."""
        if session.servicebus is not None:
            return session.servicebus if session.servicebus in self.servicebus else None
        return next(iter(self.servicebus)) if len(self.servicebus) == 1 else None

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


def _secret_source(key: str, value: SecretStr | None, file: Path | None, env: str | None) -> SecretSource | None:
    if value is None and file is None and env is None:
        return None
    return SecretSource(key, value, file, env)
