"""What a namespace lets us in with, and the tokens that are made of it: one kind of credential, one provider.

A signature made from a key, and a token of a Microsoft Entra identity, are made anew for as long as they are needed. A
signature that came ready has an end that nobody here can move: it is told well before.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, assert_never

import anyio
import structlog

from renewer.errors import TransientError
from renewer.targets.identity import Identity
from renewer.targets.servicebus.lockclock import SteadyWall
from renewer.targets.servicebus.sas import shared_access_signature
from renewer.targets.tokens import AzureIdentityToken

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from renewer.ports import Clock
    from renewer.targets.servicebus.options import NamespaceOptions

SCOPE: Final = "https://servicebus.azure.net//.default"
"""What a token of an identity is asked for, for every namespace (azure-servicebus 7.15 behaviour)."""

DISTRUST_S: Final = 86_400.0
"""How much longer a signature lives that is made after a refusal: the broker's clock may be ahead of ours."""

WARN_BEFORE_S: Final = (7 * 86_400.0, 86_400.0, 3600.0, 600.0)
"""When the end of a ready signature is warned of."""

_WATCH_S: Final = 30.0

log = structlog.get_logger("renewer.servicebus")


@dataclass(frozen=True, slots=True)
class SharedAccessKey:
    """The key of a shared access policy."""

    name: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReadySignature:
    """A shared access signature that somebody else made: its text, its policy, its end in seconds since the epoch."""

    text: str = field(repr=False)
    name: str
    ends_at: int


NamespaceCredential: TypeAlias = SharedAccessKey | ReadySignature | Identity


@dataclass(frozen=True, slots=True)
class EntityToken:
    """A token for one entity. It ends at `ends_at` (monotonic), `expires_at` by a wall clock (epoch seconds)."""

    text: str = field(repr=False)
    kind: Literal["servicebus.windows.net:sastoken", "jwt"]
    expires_at: int
    ends_at: float


class TokenProvider(Protocol):
    """Gives tokens for the entities of one namespace."""

    @property
    def remedy(self) -> str:
        """What people can do when the broker does not take the tokens."""
        ...

    @property
    def trouble(self) -> str | None:
        """What is, or soon will be, wrong with the credential, for people; None as a rule."""
        ...

    async def prepare(self) -> None:
        """Get ready: a broker gives a new connection little time to show a token. TransientError if there is none."""
        ...

    async def token(self, entity: str, *, beyond: float | None = None, refused: bool = False) -> EntityToken:
        """A token for the entity.

        With `beyond` one that ends later than that moment, with `refused` another one than the broker just refused; in
        both cases the same one as before if there will be no other. TransientError if none can be had now.
        """
        ...

    async def watch(self) -> None:
        """Run beside the connections, to warn in time. Returns when there is nothing to watch."""
        ...


def token_provider(
    options: NamespaceOptions, clock: Clock, *, wall: SteadyWall | None = None, audience: Callable[[str], str]
) -> TokenProvider:
    """The provider for the namespace's credential. `audience` is what a signature for an entity is for."""
    match options.credential:
        case SharedAccessKey() as key:
            return KeyTokens(
                key, clock, wall or steady_wall(clock), audience=audience, lifetime_s=options.token_lifetime_s
            )
        case ReadySignature() as signature:
            return SignatureTokens(signature, clock, section=options.target_name)
        case Identity() as identity:
            return IdentityTokens(AzureIdentityToken(SCOPE, identity, clock=clock), identity.credential)
        case _:
            assert_never(options.credential)


class CountedTokens:
    """Another provider's tokens. `failures` counts how often one could not be had, or was not taken by the broker."""

    def __init__(self, provider: TokenProvider) -> None:
        self.failures = 0
        self._provider = provider

    @property
    def remedy(self) -> str:
        """See `TokenProvider`."""
        return self._provider.remedy

    @property
    def trouble(self) -> str | None:
        """See `TokenProvider`."""
        return self._provider.trouble

    async def prepare(self) -> None:
        """See `TokenProvider`."""
        with self._counting():
            await self._provider.prepare()

    async def token(self, entity: str, *, beyond: float | None = None, refused: bool = False) -> EntityToken:
        """See `TokenProvider`. Who asks because of a refusal tells of a failure by that."""
        if refused:
            self.failures += 1
        with self._counting():
            return await self._provider.token(entity, beyond=beyond, refused=refused)

    async def watch(self) -> None:
        """See `TokenProvider`."""
        await self._provider.watch()

    @contextmanager
    def _counting(self) -> Generator[None, None, None]:
        try:
            yield
        except TransientError:
            self.failures += 1
            raise


def steady_wall(clock: Clock) -> SteadyWall:
    """The wall clock as it is now, to be carried on by the monotonic one."""
    return SteadyWall(clock.now(), clock.utc_now().timestamp())


class KeyTokens:
    """Signatures made from a key, each for one entity."""

    def __init__(
        self,
        key: SharedAccessKey,
        clock: Clock,
        wall: SteadyWall,
        *,
        audience: Callable[[str], str],
        lifetime_s: float,
    ) -> None:
        self._key = key
        self._clock = clock
        self._wall = wall
        self._audience = audience
        self._lifetime_s = lifetime_s

    @property
    def remedy(self) -> str:
        """See `TokenProvider`."""
        return (
            f"check that the key of the policy {self._key.name!r} is the present one, that the policy is for this "
            "namespace or entity and has the right Listen, and that this machine's clock is right"
        )

    @property
    def trouble(self) -> str | None:
        """See `TokenProvider`."""
        return None

    async def prepare(self) -> None:
        """See `TokenProvider`: a key is always ready."""

    async def token(self, entity: str, *, beyond: float | None = None, refused: bool = False) -> EntityToken:
        """A new signature; after a refusal one that lives a day longer, for the broker's clock may not be ours."""
        now = self._clock.now()
        # The later of what the clock shows and what it would show had nobody stepped it: too long a token harms nobody.
        wall_now = max(self._wall.at(now), self._clock.utc_now().timestamp())
        expires_at = int(wall_now + self._lifetime_s + (DISTRUST_S if refused else 0.0))
        text = shared_access_signature(
            self._audience(entity), key_name=self._key.name, key=self._key.key, expires_at=expires_at
        )
        return EntityToken(text, "servicebus.windows.net:sastoken", expires_at, now + self._lifetime_s)

    async def watch(self) -> None:
        """See `TokenProvider`: nothing to watch."""


class SignatureTokens:
    """One signature, for as long as it lasts."""

    def __init__(self, signature: ReadySignature, clock: Clock, *, section: str) -> None:
        self._signature = signature
        self._clock = clock
        self._section = section

    @property
    def remedy(self) -> str:
        """See `TokenProvider`."""
        anew = (
            f"put a new SharedAccessSignature into the connection string of [{self._section}], or a SharedAccessKey, "
            "from which renewer makes its own, and restart"
        )
        if self._left_s() <= 0:
            return f"the SharedAccessSignature of the policy {self._signature.name!r} ended at {self._end}: {anew}"
        return (
            f"the SharedAccessSignature of the policy {self._signature.name!r} must be for this namespace or entity, "
            f"with the right Listen, and signed with a key that has not been replaced: {anew}"
        )

    @property
    def trouble(self) -> str | None:
        """See `TokenProvider`."""
        left_s = self._left_s()
        if left_s > WARN_BEFORE_S[-1]:
            return None
        return self.remedy if left_s <= 0 else f"the SharedAccessSignature ends at {self._end}"

    async def prepare(self) -> None:
        """See `TokenProvider`: it is there. Whether it is still good is for the broker to say, by its own clock."""

    async def token(self, entity: str, *, beyond: float | None = None, refused: bool = False) -> EntityToken:
        """The signature, whatever the entity."""
        ends_at = self._clock.now() + self._left_s()
        return EntityToken(self._signature.text, "servicebus.windows.net:sastoken", self._signature.ends_at, ends_at)

    async def watch(self) -> None:
        """Warn before the signature ends, and say when it has ended."""
        told = None
        while True:
            left_s = self._left_s()
            if left_s <= 0:
                log.error("shared access signature ended", target=self._section, ended_at=self._end, remedy=self.remedy)
                return
            stage = min((before_s for before_s in WARN_BEFORE_S if left_s <= before_s), default=None)
            if stage != told:
                told = stage
                log.warning(
                    "shared access signature ends soon",
                    target=self._section,
                    ends_at=self._end,
                    ends_in_s=round(left_s),
                    remedy="put a new one into the connection string and restart, or use a key or an identity",
                )
            await anyio.sleep(min(_WATCH_S, left_s))

    def _left_s(self) -> float:
        return self._signature.ends_at - self._clock.utc_now().timestamp()

    @property
    def _end(self) -> str:
        return datetime.fromtimestamp(self._signature.ends_at, UTC).isoformat(timespec="seconds")


class IdentityTokens:
    """Tokens of a Microsoft Entra identity, the same for all entities."""

    def __init__(self, source: AzureIdentityToken, name: str) -> None:
        self._source = source
        self._name = name

    @property
    def remedy(self) -> str:
        """See `TokenProvider`."""
        return (
            f"give the identity of credential {self._name!r} the role 'Azure Service Bus Data Receiver' on the "
            "namespace or the entity (it takes some minutes to be in force), and check that it is of the right tenant"
        )

    @property
    def trouble(self) -> str | None:
        """See `TokenProvider`."""
        return self._source.failure

    async def prepare(self) -> None:
        """Get a token, which may take a while the first time."""
        await self._source.timed()

    async def token(self, entity: str, *, beyond: float | None = None, refused: bool = False) -> EntityToken:
        """The identity's token."""
        token = await self._source.timed(fresh=refused, beyond=beyond)
        return EntityToken(token.text, "jwt", token.expires_on, token.ends_at)

    async def watch(self) -> None:
        """See `TokenProvider`: the connections replace the token in time."""
