"""What only makes sense together: settings that are right one by one and wrong side by side."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from renewer.config.accountchecks import check_accounts, check_bearer
from renewer.config.findings import Finding, one_of
from renewer.config.gatewaychecks import check_gateways, no_servicebus
from renewer.config.listen import TcpListen
from renewer.config.namespaces import check_namespace
from renewer.config.quantities import format_duration
from renewer.config.secretsource import resolve_secret
from renewer.config.sockets import check_socket_group
from renewer.core.timing import renewal_attempt_s
from renewer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import timedelta

    from renewer.config.connectionstring import ConnectionString
    from renewer.config.keylines import KeyPath
    from renewer.config.model import SessionSettings, Settings
    from renewer.core.timing import RenewalPolicy

MIN_ATTEMPTS: Final = 4
"""So many renewals must fit between due and expiry: one lost reply must cost an attempt, never the lock."""


_WHICH_SESSION: Final = ("servicebus", "entity", "session_id")


def check(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Every mistake that shows when settings, files and variables are looked at together. Reads the files named."""
    yield from _check_daemon(settings)
    yield from _check_api(settings, environ)
    connections: dict[str, ConnectionString] = {}
    for name, servicebus in settings.servicebus.items():
        yield from check_namespace(name, servicebus, environ, connections)
    yield from _check_sessions(settings, connections)
    yield from _check_room(settings)
    yield from check_gateways(settings, environ, connections)
    yield from _check_attempts(settings)
    yield from check_accounts(settings, environ)
    yield from _check_callback(settings, environ)


def _check_daemon(settings: Settings) -> Iterator[Finding]:
    if settings.daemon.event_loop == "uvloop" and not settings.daemon.uses_uvloop():
        yield Finding(
            ("daemon", "event_loop"),
            "needs a package that is not installed: pip install 'renewer[uvloop]', or set asyncio or auto",
        )
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
    yield from one_of("api", api, ("key", "key_file", "key_env"), ("api",))
    source = api.key_source()
    if source is not None:
        yield from check_bearer(source, ("api",), environ)
    listen, metrics = api.listen, settings.metrics.listen
    if api.socket_group is not None:
        elsewhere = "unix:/run/renewer/renewer.sock"
        yield from check_socket_group(api.socket_group, listen, ("api",), settings, elsewhere=elsewhere)
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


def _check_sessions(settings: Settings, connections: Mapping[str, ConnectionString]) -> Iterator[Finding]:
    first: dict[tuple[str, str, str | None], int] = {}
    for number, session in enumerate(settings.session):
        here: KeyPath = ("session", number)
        name = settings.servicebus_name(session)
        if name is None:
            yield no_servicebus(settings, session.servicebus, here)
            continue
        if settings.servicebus[name].transport == "rest":
            yield Finding(
                here,
                f'cannot be held: servicebus.{name} has transport = "rest", which keeps the locks of messages alone; '
                'sessions need "amqp" or "amqp-websocket"',
                (("servicebus", name, "transport"),),
            )
        connection = connections.get(name)
        bound = connection.entity_path if connection is not None else None
        if bound is not None and bound.lower() != session.entity.lower():
            yield Finding(
                (*here, "entity"),
                f"must be the entity that the connection string of servicebus.{name} is for, by its EntityPath",
            )
        if session.sessions is not None:
            yield from _check_pool(session, name, here, first)
            continue
        if session.idle_timeout is not None:
            yield Finding((*here, "idle_timeout"), "goes with sessions: a session that is of no pool is kept")
        if session.session_id is None:
            # Several entries for the next available session are several sessions.
            continue
        key = (name, session.entity.lower(), session.session_id)
        if key in first:
            yield Finding(
                here,
                f"is the same session as session[{first[key]}]: it can be held once; take one of the entries out",
                tuple(("session", entry, part) for entry in (first[key], number) for part in _WHICH_SESSION),
            )
        first.setdefault(key, number)


def _check_room(settings: Settings) -> Iterator[Finding]:
    """A session that is named in the configuration must fit onto the connections that there may be."""
    wanted: Counter[str] = Counter()
    for session in settings.session:
        name = settings.servicebus_name(session)
        if name is not None:
            wanted[name] += session.sessions or 1
    for name, sessions in wanted.items():
        section = settings.servicebus[name]
        room = section.max_connections * section.sessions_per_connection
        if sessions > room:
            yield Finding(
                ("servicebus", name, "max_connections"),
                f"with sessions_per_connection {section.sessions_per_connection} there is room for {room} sessions, "
                f"and [[session]] asks for {sessions}; raise it",
                (("servicebus", name, "sessions_per_connection"), ("session",)),
                value=str(section.max_connections),
            )


def _check_pool(
    session: SessionSettings, servicebus: str, here: KeyPath, first: dict[tuple[str, str, str | None], int]
) -> Iterator[Finding]:
    if session.session_id is not None:
        yield Finding(
            (*here, "sessions"),
            "goes with the next available sessions of an entity; take session_id out, or sessions",
            ((*here, "session_id"),),
        )
        return
    number = int(here[1])
    key = (servicebus, session.entity.lower(), None)
    if key in first:
        yield Finding(
            (*here, "sessions"),
            f"is a second pool of the same entity, beside session[{first[key]}]; make them one",
            tuple(("session", entry, part) for entry in (first[key], number) for part in ("servicebus", "entity")),
        )
    first.setdefault(key, number)


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


def _check_callback(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    callback = settings.callback
    yield from one_of("callback", callback, ("key", "key_file", "key_env"), ("callback",))
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
