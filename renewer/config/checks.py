"""What only makes sense together: settings that are right one by one and wrong side by side."""

from __future__ import annotations

import grp
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from renewer.config.connectionstring import ConnectionString
from renewer.config.listen import TcpListen, UnixListen
from renewer.config.quantities import format_duration
from renewer.config.secretsource import resolve_secret
from renewer.config.suggest import closest
from renewer.core.timing import renewal_attempt_s
from renewer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import timedelta
    from pathlib import Path

    from renewer.config.keylines import KeyPath
    from renewer.config.model import FabricSettings, ServiceBusSettings, SessionSettings, Settings
    from renewer.config.secretsource import SecretSource
    from renewer.core.timing import RenewalPolicy

MIN_ATTEMPTS: Final = 4
"""So many renewals must fit between due and expiry: one lost reply must cost an attempt, never the lock."""


_IDENTITY: Final = ("servicebus", "entity", "session_id")
NAMES: Final = "*"
"""In a path of `Finding.uses`: which sections there are in the group, whatever is in them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake at `path`. It is worth telling only if nothing was wrong already at or around `path` and `uses`.

    `value` is what to show where the setting was not given, so that its default is at fault.
    """

    path: KeyPath
    remedy: str
    uses: tuple[KeyPath, ...] = ()
    value: str | None = None


def check(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Every mistake that shows when settings, files and variables are looked at together. Reads the files named."""
    yield from _check_daemon(settings)
    yield from _check_api(settings, environ)
    connections: dict[str, ConnectionString] = {}
    for name, servicebus in settings.servicebus.items():
        yield from _check_servicebus(name, servicebus, environ, connections)
    yield from _check_sessions(settings, connections)
    yield from _check_attempts(settings)
    for name, fabric in settings.fabric.items():
        yield from _check_fabric(name, fabric, environ)
    yield from _check_callback(settings, environ)


def _check_daemon(settings: Settings) -> Iterator[Finding]:
    path = settings.daemon.state_dir
    try:
        wrong = path.exists() and not path.is_dir()
    except OSError as error:
        yield Finding(("daemon", "state_dir"), f"must be a directory that can be reached; {error.strerror}")
        return
    if wrong:
        yield Finding(("daemon", "state_dir"), "must be a directory; there is something else of that name")


def _check_api(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    api = settings.api
    key_paths: tuple[KeyPath, ...] = (("api", "key"), ("api", "key_file"), ("api", "key_env"))
    yield from _one_of("api", api, ("key", "key_file", "key_env"), ("api",))
    source = api.key_source()
    if source is not None:
        yield from _check_bearer(source, ("api",), environ)
    listen, metrics = api.listen, settings.metrics.listen
    if isinstance(listen, UnixListen) and api.socket_group is not None and _is_within(listen.path, settings):
        yield Finding(
            ("api", "socket_group"),
            f"would reach nobody: {listen.path} is in daemon.state_dir, which is for its owner alone; listen "
            "elsewhere, as on unix:/run/renewer/renewer.sock",
            (("api", "listen"), ("daemon", "state_dir")),
        )
    if api.socket_group is not None:
        yield from _check_group(api.socket_group, listen)
    if not isinstance(listen, TcpListen):
        return
    if source is None and not listen.is_loopback:
        yield Finding(
            ("api", "listen"),
            "this address can be reached from elsewhere: set key, key_file or key_env, or listen on loopback or unix:",
            key_paths,
        )
    if metrics is not None and listen.collides_with(metrics):
        yield Finding(
            ("api", "listen"),
            f"must be another port than metrics.listen, which is {metrics.authority}",
            (("metrics", "listen"),),
        )


def _check_group(group: str, listen: UnixListen | TcpListen) -> Iterator[Finding]:
    at: KeyPath = ("api", "socket_group")
    if isinstance(listen, TcpListen):
        yield Finding(at, "has no effect on a TCP port; take it out, or listen on unix:", (("api", "listen"),))
        return
    try:
        number = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        yield Finding(at, "must be a group of this machine; make it, or name another")
        return
    if os.geteuid() != 0 and number not in {os.getegid(), *os.getgroups()}:
        yield Finding(at, "must be a group that this user is a member of: nobody else may give a file to it")


def _is_within(path: Path, settings: Settings) -> bool:
    return settings.daemon.state_dir.absolute() in path.absolute().parents


def _check_servicebus(
    name: str, servicebus: ServiceBusSettings, environ: Mapping[str, str], connections: dict[str, ConnectionString]
) -> Iterator[Finding]:
    here: KeyPath = ("servicebus", name)
    keys = ("connection_string", "connection_string_file", "connection_string_env")
    yield from _one_of(f"servicebus.{name}", servicebus, keys, here)
    source = servicebus.connection_string_source(name)
    if source.value is None and source.file is None and source.env is None:
        uses = tuple((*here, key) for key in keys)
        yield Finding(here, f"needs one of {', '.join(keys)}", uses)
    else:
        at = (*here, source.setting.rpartition(".")[2])
        try:
            connections[name] = ConnectionString.parse(resolve_secret(source, environ).get_secret_value())
        except ConfigError as error:
            for problem in error.problems:
                from_string = problem.where == "connection string"
                yield Finding(at, f"{problem.key} {problem.remedy}" if from_string else problem.remedy)
    if servicebus.ca_file is not None:
        yield from _check_ca_file(servicebus.ca_file, (*here, "ca_file"))
        if name in connections and not connections[name].tls:
            yield Finding((*here, "ca_file"), "has no effect with UseDevelopmentEmulator=true, which is without TLS")
    given = servicebus.model_fields_set
    if "spread_after" in given and servicebus.spread_after > servicebus.sessions_per_connection:
        yield Finding(
            (*here, "spread_after"),
            f"must be at most sessions_per_connection, which is {servicebus.sessions_per_connection}",
            ((*here, "sessions_per_connection"),),
        )


def _check_sessions(settings: Settings, connections: Mapping[str, ConnectionString]) -> Iterator[Finding]:
    first: dict[tuple[str, str, str], int] = {}
    for number, session in enumerate(settings.session):
        here: KeyPath = ("session", number)
        name = settings.servicebus_name(session)
        if name is None:
            yield _no_servicebus(settings, session, here)
            continue
        connection = connections.get(name)
        bound = connection.entity_path if connection is not None else None
        if bound is not None and bound.lower() != session.entity.lower():
            yield Finding(
                (*here, "entity"),
                f"must be the entity that the connection string of servicebus.{name} is for, by its EntityPath",
            )
        if session.session_id is None:
            # Several entries for the next available session are several sessions.
            continue
        key = (name, session.entity.lower(), session.session_id)
        if key in first:
            yield Finding(
                here,
                f"is the same session as session[{first[key]}]: it can be held once; take one of the entries out",
                tuple(("session", entry, part) for entry in (first[key], number) for part in _IDENTITY),
            )
        first.setdefault(key, number)


def _no_servicebus(settings: Settings, session: SessionSettings, here: KeyPath) -> Finding:
    known = ", ".join(settings.servicebus)
    if session.servicebus is None:
        remedy = f"must say which servicebus it is on: {known}" if known else "needs a section [servicebus.NAME]"
        return Finding(here, remedy, (("servicebus", NAMES), (*here, "servicebus")))
    near = closest(session.servicebus, settings.servicebus)
    if near is not None:
        remedy = f"there is no [servicebus.{session.servicebus}]; did you mean {near}?"
    else:
        remedy = f"there is no [servicebus.{session.servicebus}]; " + (f"there are {known}" if known else "add it")
    return Finding((*here, "servicebus"), remedy, (("servicebus", NAMES),))


def _check_attempts(settings: Settings) -> Iterator[Finding]:
    """Enough attempts must fit into each lock whose length is known, the one assumed without an answer among them."""
    places: list[tuple[KeyPath, timedelta]] = []
    for name, servicebus in settings.servicebus.items():
        places.append((("servicebus", name, "assumed_lock_duration"), servicebus.assumed_lock_duration))
        if servicebus.lock_duration is not None:
            places.append((("servicebus", name, "lock_duration"), servicebus.lock_duration))
    for number, session in enumerate(settings.session):
        if session.lock_duration is not None:
            places.append((("session", number, "lock_duration"), session.lock_duration))
    uses: tuple[KeyPath, ...] = tuple(
        ("renewal", key) for key in ("due_fraction", "attempt_fraction", "max_attempt", "max_interval")
    )
    policy = settings.renewal_policy()
    for path, lock in places:
        fit = attempts_before_expiry(policy, lock.total_seconds())
        if fit < MIN_ATTEMPTS:
            yield Finding(
                path,
                f"too short a lock for renewal.due_fraction {policy.due_fraction:g} and renewal.attempt_fraction "
                f"{policy.attempt_fraction:g}: {fit} of at least {MIN_ATTEMPTS} attempts fit before it expires; "
                "set a longer one, or renew earlier",
                uses,
                value=format_duration(lock),
            )


def attempts_before_expiry(policy: RenewalPolicy, lock_s: float) -> int:
    """How many attempts, each unanswered, can begin between due and expiry; counted up to `MIN_ATTEMPTS`."""
    remaining_s = lock_s - min(policy.due_fraction * lock_s, policy.max_interval_s)
    attempts = 0
    while remaining_s > 0 and attempts < MIN_ATTEMPTS:
        attempts += 1
        remaining_s -= renewal_attempt_s(policy, remaining_s=remaining_s, duration_s=lock_s)
    return attempts


def _check_fabric(name: str, fabric: FabricSettings, environ: Mapping[str, str]) -> Iterator[Finding]:
    here: KeyPath = ("fabric", name)
    given = fabric.model_fields_set
    yield from _one_of(f"fabric.{name}", fabric, ("token", "token_file", "token_env", "credential"), here)
    source = fabric.token_source(name)
    if source is not None:
        yield from _check_bearer(source, here, environ)
        if "scope" in given:
            yield Finding((*here, "scope"), "has no effect with a token of your own: it is asked for by credential")
    # A bound that was not given makes room for one that was; two that were given must agree.
    for low, high in (
        ("poll_floor", "poll_ceiling"),
        ("poll_floor", "default_interval"),
        ("default_interval", "poll_ceiling"),
        ("not_found_grace", "deadline"),
        ("request_timeout", "deadline"),
    ):
        least, most = getattr(fabric, low), getattr(fabric, high)
        both = {low, high} <= given
        if least > most and (both or (low, high) == ("poll_floor", "poll_ceiling")):
            culprit, other, word, bound = (low, high, "most", most) if low in given else (high, low, "least", least)
            yield Finding(
                (*here, culprit), f"must be at {word} {other}, which is {format_duration(bound)}", ((*here, other),)
            )


def _check_callback(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    callback = settings.callback
    yield from _one_of("callback", callback, ("key", "key_file", "key_env"), ("callback",))
    source = callback.key_source()
    if source is not None:
        try:
            resolve_secret(source, environ)
        except ConfigError as error:
            yield Finding(("callback", source.setting.rpartition(".")[2]), error.problems[0].remedy)
    given = callback.model_fields_set
    if callback.timeout > callback.give_up:
        culprit, other, word = ("timeout", "give_up", "most") if "timeout" in given else ("give_up", "timeout", "least")
        bound = format_duration(getattr(callback, other))
        yield Finding(("callback", culprit), f"must be at {word} {other}, which is {bound}", (("callback", other),))


def _one_of(section: str, settings: Any, keys: tuple[str, ...], here: KeyPath) -> Iterator[Finding]:
    given = [key for key in keys if key in settings.model_fields_set and getattr(settings, key) is not None]
    for extra in given[1:]:
        yield Finding((*here, extra), f"is one too many in {section}: {given[0]} is there already; keep one of them")


def _check_bearer(source: SecretSource, here: KeyPath, environ: Mapping[str, str]) -> Iterator[Finding]:
    at = (*here, source.setting.rpartition(".")[2])
    try:
        secret = resolve_secret(source, environ).get_secret_value()
    except ConfigError as error:
        yield Finding(at, error.problems[0].remedy)
        return
    if not secret.isascii() or " " in secret:
        yield Finding(at, "must be of ASCII letters, digits and signs without spaces, as HTTP headers carry it")


def _check_ca_file(path: Path, at: KeyPath) -> Iterator[Finding]:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        yield Finding(at, "must name a file with certificates in PEM")
    except OSError as error:
        yield Finding(at, f"must name a readable file; {error.strerror}")
