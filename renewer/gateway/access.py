"""Who is let in: the keys of workers, what they sign with them, and what each may use."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote, unquote_plus

from renewer.errors import AmqpProtocolError, UsageError
from renewer.gateway.addresses import NodeKind, read_node, split_address
from renewer.gateway.options import LENIENCY_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from renewer.gateway.addresses import Node
    from renewer.gateway.options import WorkerKey


@dataclass(frozen=True, slots=True)
class Admitted:
    """The token is good: by this key, for this entity (empty: for all that the key may use).

    `scope` is what was signed, a path in lower case: the signature opens what lies there and below, all if it is empty.
    """

    key: WorkerKey
    entity: str
    scope: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The token is not good, or not for that. `text` is for the worker and for our log, without secrets."""

    why: Literal["key", "entity"]
    text: str


class Doorman:
    """Judges what workers show. Keys without text let nobody in.

    `leniency_s` is for how long after its end a token still lets in, as the clocks of workers differ from ours.
    """

    def __init__(self, keys: Sequence[WorkerKey], leniency_s: float = LENIENCY_S) -> None:
        self._keys = tuple(key for key in keys if key.key)
        self._leniency_s = leniency_s
        self._nonce = secrets.token_bytes(32)

    def judge(self, token: str, audience: str, wall_now: float) -> Admitted | Refused:
        """Whether `token`, shown for `audience` at `wall_now` (epoch seconds), lets in, and to what.

        A shared access signature is HMAC-SHA256 with the key's text over the encoded resource and the expiry. The
        resource must be the audience or lie above it. Of both only host and path count: clients write the scheme
        of either as sb, amqps or http (the service does not look at it), some leave out the port, some write
        all of it in lower case. The host is whatever the worker calls this gateway, so it need only be the same in
        both.
        """
        if len(token) > LONGEST_TOKEN or len(audience) > LONGEST_TOKEN:
            return Refused("key", "InvalidToken: the token is too long.")
        signature = _parse(token)
        if isinstance(signature, str):
            return Refused("key", signature)
        key = self._signer(signature)
        if key is None:
            return Refused("key", _NOT_OURS)
        if int(signature.expiry) + self._leniency_s < wall_now:
            return Refused("key", "ExpiredToken: the token has expired; is the clock of the worker right?")
        try:
            host, path = _host_and_path(audience)
            resource_host, resource = _host_and_path(unquote_plus(signature.resource))
        except UsageError as error:
            return Refused("key", f"InvalidAudience: {error}.")
        if resource_host != host or not lies_in(path, resource):
            return Refused("key", "InvalidAudience: the token was signed for something else.")
        return self._admit(key, audience, resource)

    def may_use(self, key: WorkerKey, base: str) -> bool:
        """Whether an entity (without its sub-queue) is one that the key may use."""
        return bool(base) and any(covers(pattern, base) for pattern in key.entities)

    def _signer(self, signature: _Signature) -> WorkerKey | None:
        """The key that has made the signature. Each is tried, so that the time does not tell which names there are."""
        found = None
        for key in self._keys:
            digest = hmac.digest(key.key.encode("utf-8", "surrogatepass"), signature.signed, "sha256")
            same = hmac.compare_digest(digest, signature.digest)
            if same and key.name in signature.key_names and found is None:
                found = key
        return found

    def _admit(self, key: WorkerKey, audience: str, scope: str) -> Admitted | Refused:
        if not split_address(audience)[1].strip("/"):
            return Admitted(key, "", scope)
        try:
            node = read_node(audience.removesuffix("/"))
        except UsageError as error:
            return Refused("entity", f"InvalidAudience: {error}.")
        if node.kind is NodeKind.CBS:
            return Refused("entity", "InvalidAudience: nobody needs a token for $cbs.")
        if not self.may_use(key, node.base):
            return Refused("entity", may_not_use(key, node.base))
        return Admitted(key, node.entity, scope)

    def _blinded(self, text: str) -> bytes:
        """What can be compared without telling how long the texts are."""
        return hmac.digest(self._nonce, text.encode("utf-8", "surrogatepass"), "sha256")


class Grants:
    """What one worker has proved: keys, and for each the scopes that were signed with it."""

    __slots__ = ("_doorman", "_grants")

    def __init__(self, doorman: Doorman) -> None:
        self._doorman = doorman
        self._grants: dict[tuple[WorkerKey, str], None] = {}

    def __len__(self) -> int:
        return len(self._grants)

    @property
    def key_name(self) -> str | None:
        """The first key that was proved."""
        return next((key.name for key, _ in self._grants), None)

    def add(self, key: WorkerKey, scope: str) -> None:
        """This key was proved, for that. AmqpProtocolError where one worker signs for too many things."""
        if len(self._grants) >= MOST_GRANTS and (key, scope) not in self._grants:
            raise AmqpProtocolError("tokens for too many entities", condition="amqp:resource-limit-exceeded")
        self._grants[key, scope] = None

    def may_use(self, node: Node) -> bool:
        """Whether one of the keys is for this entity, and what was signed with it is too."""
        path = node.path
        return any(lies_in(path, scope) and self._doorman.may_use(key, node.base) for key, scope in self._grants)


def covers(pattern: str, base: str) -> bool:
    """Whether the pattern stands for the entity; upper and lower case are the same.

    `*` stands for a part of the path, or for any piece of one; alone it stands for everything.
    """
    # Not the regex flag for that: it takes a dotless i for an i, which is another entity's name.
    return _compiled(pattern.lower()).fullmatch(base.lower()) is not None


def lies_in(path: str, scope: str) -> bool:
    """Whether the path is the scope, or lies below it; both in lower case. An empty scope is the namespace."""
    return not scope or path == scope or path.startswith(scope + "/")


def may_not_use(key: WorkerKey, base: str) -> str:
    """What to say of an entity that the key may not use."""
    return f"Unauthorized access: the gateway's key {key.name!r} may not use {base[:260]!r} (see its entities)."


MOST_GRANTS: Final = 4096
"""Entities that one worker may have signed for."""

LONGEST_TOKEN: Final = 4096

_PREFIX: Final = "SharedAccessSignature "
_NAMES: Final = frozenset(("sr", "sig", "se", "skn"))
_NOT_OURS: Final = (
    "InvalidSignature: the token was not signed with a key of this gateway; the worker's connection string needs the "
    "name and the key of one that the gateway is configured with."
)
_NO_SIGNATURE: Final = (
    "InvalidToken: the gateway lets workers in by a key of its own configuration; give the worker a connection string "
    "with SharedAccessKeyName and SharedAccessKey instead of a credential."
)
_ODD_SIGNATURE: Final = "InvalidToken: a shared access signature has sr, sig, se and skn, each once, and nothing else."
_EXPIRY: Final = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class _Signature:
    """A shared access signature. `resource` and `expiry` are as they were signed."""

    resource: str
    expiry: str
    key_names: frozenset[str]
    digest: bytes = field(repr=False)

    @property
    def signed(self) -> bytes:
        return f"{self.resource}\n{self.expiry}".encode("utf-8", "surrogatepass")


def _parse(token: str) -> _Signature | str:
    """The token's fields, or what is wrong with it."""
    if not token.startswith(_PREFIX):
        return _NO_SIGNATURE
    fields: dict[str, str] = {}
    for part in token[len(_PREFIX) :].split("&"):
        name, _, value = part.partition("=")
        if name not in _NAMES or name in fields or not value:
            return _ODD_SIGNATURE
        fields[name] = value
    if len(fields) != len(_NAMES) or not _EXPIRY.fullmatch(fields["se"]):
        return _ODD_SIGNATURE
    name = fields["skn"]
    try:
        # A plus is a digit of base64 here, not a space: some clients leave it as it is.
        digest = base64.b64decode(unquote(fields["sig"]), validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    return _Signature(fields["sr"], fields["se"], frozenset((name, unquote(name), unquote_plus(name))), digest)


def _host_and_path(uri: str) -> tuple[str, str]:
    """Host and path to compare, in lower case. UsageError for an odd scheme."""
    authority, path = split_address(uri)
    host, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit():
        host = authority
    return host.lower(), path.strip("/").lower()


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    if pattern == "*":
        return re.compile(r"(?s:.+)")
    return re.compile("/".join(map(_part, pattern.strip("/").split("/"))))


def _part(part: str) -> str:
    """One part of a pattern: what stands between two stars is taken where it is first found, and nowhere else."""
    first, *rest = map(re.escape, re.split(r"\*+", part))
    if not rest:
        return first
    *middle, last = rest
    return first + "".join(f"(?>[^/]*?{piece})" for piece in middle) + "[^/]*" + last
