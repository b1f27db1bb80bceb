"""What does not go together in `[[gateway]]`, and between gateways and what else listens."""

from __future__ import annotations

import ssl
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from renewer.config.findings import NAMES, Finding, given_keys, one_of
from renewer.config.listen import TcpListen, UnixListen, is_loopback
from renewer.config.secretsource import resolve_secret
from renewer.config.sockets import check_socket_group
from renewer.config.suggest import closest
from renewer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from renewer.config.connectionstring import ConnectionString
    from renewer.config.gateways import GatewayKeySettings, GatewaySettings
    from renewer.config.keylines import KeyPath
    from renewer.config.model import Settings

_KEY_WAYS: Final = ("key", "key_file", "key_env")
_LEAST_KEY_LENGTH: Final = 16
_LEAST_KEY_CHARACTERS: Final = 8
_MOST_KEY_LENGTH: Final = 256
"""As long as Azure.Messaging.ServiceBus (.NET) takes keys in connection strings."""


def check_gateways(
    settings: Settings, environ: Mapping[str, str], connections: Mapping[str, ConnectionString]
) -> Iterator[Finding]:
    """Every mistake in ``[[gateway]]``. Reads the files named."""
    names: dict[str, int] = {}
    for number, gateway in enumerate(settings.gateway):
        here: KeyPath = ("gateway", number)
        yield from _check_namespace(settings, gateway, here, connections)
        yield from _check_name(settings, gateway, number, names)
        yield from _check_address(settings, gateway, number)
        yield from _check_door(settings, gateway, here)
        yield from _check_keys(gateway, here, environ)
        yield from _check_rules(gateway, here)


def no_servicebus(settings: Settings, wanted: str | None, here: KeyPath) -> Finding:
    """Say of a section that is on no namespace how it could be on one; `wanted` is what it names."""
    known = ", ".join(settings.servicebus)
    if wanted is None:
        remedy = f"must say which servicebus it is on: {known}" if known else "needs a section [servicebus.NAME]"
        return Finding(here, remedy, (("servicebus", NAMES), (*here, "servicebus")))
    near = closest(wanted, settings.servicebus)
    if near is not None:
        remedy = f"there is no [servicebus.{wanted}]; did you mean {near}?"
    else:
        remedy = f"there is no [servicebus.{wanted}]; " + (f"there are {known}" if known else "add it")
    return Finding((*here, "servicebus"), remedy, (("servicebus", NAMES),))


def patterns_meet(one: str, other: str) -> bool:
    """Whether there can be an entity that both patterns cover."""
    if "*" in (one, other):
        return True
    parts, others = one.lower().split("/"), other.lower().split("/")
    return len(parts) == len(others) and all(map(_parts_meet, parts, others))


def _parts_meet(one: str, other: str) -> bool:
    # Which beginnings of `other` can be what the beginning of `one` stands for; row by row, so that it stays quadratic.
    row = [True, *(other[: length + 1].strip("*") == "" for length in range(len(other)))]
    for char in one:
        above, row = row, [row[0] and char == "*"]
        for number, (before, here) in enumerate(pairwise(above)):
            facing = other[number]
            if char == "*":
                row.append(here or row[-1])
            elif facing == "*":
                row.append(here or row[-1] or before)
            else:
                row.append(before and char == facing)
    return row[-1]


def _check_namespace(
    settings: Settings, gateway: GatewaySettings, here: KeyPath, connections: Mapping[str, ConnectionString]
) -> Iterator[Finding]:
    name = settings.servicebus_name(gateway)
    if name is None:
        yield no_servicebus(settings, gateway.servicebus, here)
        return
    if settings.servicebus[name].transport == "rest":
        yield Finding(
            here,
            f'cannot be served: servicebus.{name} has transport = "rest", and what workers speak is AMQP; it takes '
            '"amqp" or "amqp-websocket"',
            (("servicebus", name, "transport"),),
        )
    connection, listen = connections.get(name), gateway.listen
    if connection is None or not isinstance(listen, TcpListen) or not is_loopback(connection.host):
        return
    if listen.collides_with(TcpListen(connection.host, connection.port)):
        yield Finding(
            (*here, "listen"),
            f"is where servicebus.{name} is: the gateway would call itself; choose another port",
            (("servicebus", name),),
            value=listen.authority,
        )


def _check_name(settings: Settings, gateway: GatewaySettings, number: int, names: dict[str, int]) -> Iterator[Finding]:
    name = settings.gateway_name(gateway)
    if name is None:
        return
    if name in names:
        at: KeyPath = ("gateway", number) if gateway.name is None else ("gateway", number, "name")
        yield Finding(
            at,
            f"is called {name}, as gateway[{names[name]}] is; give it a name of its own",
            tuple(("gateway", entry, key) for entry in (names[name], number) for key in ("name", "servicebus")),
        )
    names.setdefault(name, number)


def _check_address(settings: Settings, gateway: GatewaySettings, number: int) -> Iterator[Finding]:
    listen = gateway.listen
    at: KeyPath = ("gateway", number, "listen")
    others: list[tuple[str, KeyPath, UnixListen | TcpListen | None]] = [
        ("api.listen", ("api", "listen"), settings.api.listen),
        ("metrics.listen", ("metrics", "listen"), settings.metrics.listen),
    ]
    others += [
        (f"gateway[{before}].listen", ("gateway", before, "listen"), settings.gateway[before].listen)
        for before in range(number)
    ]
    for called, path, other in others:
        if _are_one(listen, other):
            remedy = f"must be another address than {called}, which is {other}"
            yield Finding(at, remedy, (path,), value=_shown(listen))


def _are_one(one: UnixListen | TcpListen, other: UnixListen | TcpListen | None) -> bool:
    if isinstance(one, TcpListen):
        return isinstance(other, TcpListen) and one.collides_with(other)
    return isinstance(other, UnixListen) and one.path.absolute() == other.path.absolute()


def _shown(listen: UnixListen | TcpListen) -> str:
    return listen.authority if isinstance(listen, TcpListen) else str(listen)


def _check_door(settings: Settings, gateway: GatewaySettings, here: KeyPath) -> Iterator[Finding]:
    listen, at = gateway.listen, (*here, "listen")
    has_certificate = gateway.tls_cert_file is not None
    if isinstance(listen, UnixListen):
        for key in given_keys(gateway, ("tls_cert_file", "tls_key_file")):
            yield Finding((*here, key), "has no effect on a Unix socket, which nobody can listen in on", (at,))
    else:
        if not listen.is_loopback and not has_certificate:
            yield Finding(
                at,
                "this address can be reached from elsewhere: set tls_cert_file and tls_key_file, or listen on "
                "loopback, as on 127.0.0.1, or on unix:",
                ((*here, "tls_cert_file"), (*here, "tls_key_file")),
            )
        if gateway.tls_key_file is not None and not has_certificate:
            yield Finding(
                (*here, "tls_key_file"),
                "goes with tls_cert_file, which is missing: the certificate that the key belongs to",
                ((*here, "tls_cert_file"),),
            )
        if has_certificate:
            yield from _check_certificate(gateway, here)
    if gateway.socket_group is not None:
        yield from check_socket_group(
            gateway.socket_group, listen, here, settings, elsewhere="unix:/run/renewer/gateway.sock"
        )


def _check_certificate(gateway: GatewaySettings, here: KeyPath) -> Iterator[Finding]:
    at, uses = (*here, "tls_cert_file"), ((*here, "tls_key_file"),)
    if gateway.tls_cert_file is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for key in given_keys(gateway, ("tls_cert_file", "tls_key_file")):
        try:
            with getattr(gateway, key).open("rb"):
                pass
        except OSError as error:
            yield Finding((*here, key), f"must name a readable file; {error.strerror}")
            return
    try:
        # The empty password keeps an encrypted key from being asked for at the terminal.
        context.load_cert_chain(gateway.tls_cert_file, gateway.tls_key_file, password="")
    except (ssl.SSLError, OSError):
        remedy = "must name a file in PEM with the certificate and those between it and its root; its private key, "
        if gateway.tls_key_file is None:
            yield Finding(at, f"{remedy}not encrypted, is missing: in the same file, or in tls_key_file", uses)
        else:
            yield Finding(at, f"{remedy}not encrypted, must be what tls_key_file holds", uses)


def _check_keys(gateway: GatewaySettings, here: KeyPath, environ: Mapping[str, str]) -> Iterator[Finding]:
    if not gateway.key:
        yield Finding(
            here,
            "lets nobody in: it needs a [[gateway.key]] with name, key_file and entities; `renewer gateway key` makes "
            "a key",
            ((*here, "key"),),
        )
    names: dict[str, int] = {}
    secrets: dict[str, int] = {}
    for number, key in enumerate(gateway.key):
        at: KeyPath = (*here, "key", number)
        # SDKs and people tell keys apart by name; few would by case.
        if key.name.lower() in names:
            first = names[key.name.lower()]
            uses = tuple((*here, "key", entry, "name") for entry in (first, number))
            yield Finding((*at, "name"), f"is taken: key[{first}] of this gateway has it; choose another", uses)
        names.setdefault(key.name.lower(), number)
        secret: list[str] = []
        yield from _check_key(key, at, environ, secret)
        for text in secret:
            if text in secrets:
                yield Finding(
                    at,
                    f"is the same key as key[{secrets[text]}]: who has one has the other; make another one, or make "
                    "them one",
                )
            secrets.setdefault(text, number)


def _check_key(
    key: GatewayKeySettings, here: KeyPath, environ: Mapping[str, str], secret: list[str]
) -> Iterator[Finding]:
    """What is wrong with one key; the key itself, where it can be had, is added to `secret`."""
    where = f"gateway[{here[1]}].key[{here[3]}]"
    if len(given_keys(key, _KEY_WAYS)) > 1:
        yield from one_of(where, key, _KEY_WAYS, here)
        return
    source = key.key_source(where)
    if source is None:
        yield Finding(here, f"needs one of {', '.join(_KEY_WAYS)}", tuple((*here, way) for way in _KEY_WAYS))
        return
    at = (*here, source.setting.rpartition(".")[2])
    try:
        text = resolve_secret(source, environ).get_secret_value()
    except ConfigError as error:
        yield Finding(at, error.problems[0].remedy)
        return
    secret.append(text)
    remedy = key_problem(text)
    if remedy is not None:
        yield Finding(at, remedy)


def key_problem(text: str) -> str | None:
    """Why this should not be the key of a gateway; None if it may.

    SDKs take any text for a key and sign with its UTF-8 bytes: it need not be base64.
    """
    if not text.isascii() or not text.isprintable() or set(text) & set("; "):
        return "must be of ASCII letters, digits and signs without space and ;, as connection strings carry it"
    if len(text) > _MOST_KEY_LENGTH:
        return f"must be at most {_MOST_KEY_LENGTH} characters long, for SDKs take no longer ones"
    if len(text) < _LEAST_KEY_LENGTH or len(set(text)) < _LEAST_KEY_CHARACTERS:
        return (
            f"is easy to guess: it must have at least {_LEAST_KEY_LENGTH} characters, {_LEAST_KEY_CHARACTERS} of them "
            "different; `renewer gateway key` makes one"
        )
    return None


def _check_rules(gateway: GatewaySettings, here: KeyPath) -> Iterator[Finding]:
    covered = [(number, pattern) for number, key in enumerate(gateway.key) for pattern in key.entities]
    keys: tuple[KeyPath, ...] = tuple((*here, "key", number) for number in range(len(gateway.key)))
    for number, rule in enumerate(gateway.entity):
        at: KeyPath = (*here, "entity", number, "entity")
        if covered and not any(patterns_meet(rule.entity, pattern) for _, pattern in covered):
            yield Finding(at, "has no effect: no key of this gateway lets a worker use it", ((*here, "key"), *keys))
        for before, other in enumerate(gateway.entity[:number]):
            if other.entity == "*" or other.entity.lower() == rule.entity.lower():
                uses: tuple[KeyPath, ...] = ((*here, "entity", before, "entity"),)
                yield Finding(at, f"has no effect: entity[{before}] covers it, and the first that does counts", uses)
                break
