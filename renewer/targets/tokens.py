"""Where bearer tokens come from. A source never shows a token in its repr or in an error."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread

from renewer.errors import TransientError, UsageError
from renewer.targets.identity import CREDENTIAL_NAMES, Identity, signed_lifetime_s
from renewer.targets.origins import redact

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from renewer.ports import Clock
    from renewer.targets.identity import AccessToken, Credential

__all__ = [
    "CREDENTIAL_NAMES",
    "AzureIdentityToken",
    "EnvToken",
    "FileToken",
    "Identity",
    "StaticToken",
    "TimedToken",
    "TokenSource",
]

_TOKEN = re.compile(r"[!-~]+\Z")
_MAX_TOKEN = 64 * 1024
_EARLY_S = 300.0
"""A token is replaced so long before it ends."""
_FRESH_S = 30.0
"""A token younger than this, or than a sixth of its life, is as fresh as one can be: another one would meet the same
refusal."""
_PAUSE_S = 5.0
"""After a failure the identity service is left alone for so long; whoever asks meanwhile is told of that failure."""
_REFRESH_TIMEOUT_S = 30.0


class TokenSource(Protocol):
    """Gives bearer tokens."""

    async def token(self, *, fresh: bool = False) -> str:
        """A token to send; with `fresh` not the one that was just refused, if another can be had.

        Raises `TransientError` of kind unauthorized that says what to do.
        """
        ...


class StaticToken:
    """The same token always."""

    def __init__(self, token: str) -> None:
        """Raises UsageError if `token` cannot be one."""
        problem = _problem(token)
        if problem is not None:
            raise UsageError(f"token: {problem}")
        self._token = token

    async def token(self, *, fresh: bool = False) -> str:
        """The token."""
        return self._token

    def __repr__(self) -> str:
        return "StaticToken(***)"


class FileToken:
    """A token in a file that someone else keeps fresh, such as a mounted secret. The file is small and local."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._token: str | None = None
        self._seen: tuple[int, int, int] | None = None

    async def token(self, *, fresh: bool = False) -> str:
        """The file's content without blanks around it; read again when the file changed, or if `fresh`."""
        try:
            about = os.stat(self._path)
            # Taken before reading: a change in between is read again next time.
            seen = (about.st_mtime_ns, about.st_size, about.st_ino)
            if fresh or self._token is None or seen != self._seen:
                self._token = None
                self._token = self._checked(_read_start(self._path))
                self._seen = seen
        except OSError as error:
            raise TransientError(
                f"token file {self._path} cannot be read ({error.strerror}); write the token there, readable for us",
                kind="unauthorized",
            ) from error
        return self._token

    def _checked(self, content: bytes) -> str:
        token = content.decode("utf-8", "replace").strip()
        problem = _problem(token)
        if problem is not None:
            raise TransientError(f"token file {self._path}: {problem}", kind="unauthorized")
        return token

    def __repr__(self) -> str:
        return f"FileToken({str(self._path)!r})"


class EnvToken:
    """A token in an environment variable of this process."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def token(self, *, fresh: bool = False) -> str:
        """The variable's value without blanks around it."""
        token = os.environ.get(self._name, "").strip()
        problem = _problem(token)
        if problem is not None:
            raise TransientError(f"environment variable {self._name}: {problem}", kind="unauthorized")
        return token

    def __repr__(self) -> str:
        return f"EnvToken({self._name!r})"


@dataclass(frozen=True, slots=True)
class TimedToken:
    """A token, when it was given and when it ends (monotonic), and the end that its service told (epoch seconds)."""

    text: str = field(repr=False)
    obtained_at: float
    ends_at: float
    expires_on: int

    @property
    def _lasts_s(self) -> float:
        return self.ends_at - self.obtained_at

    def is_young(self, now: float) -> bool:
        """Whether it is as fresh as one can be."""
        return now - self.obtained_at < min(_FRESH_S, self._lasts_s / 6)

    def is_early(self, now: float) -> bool:
        """Whether it is not yet time to replace it."""
        return now < self.ends_at - min(_EARLY_S, self._lasts_s / 2)


class AzureIdentityToken:
    """Tokens of a Microsoft Entra identity, by azure-identity.

    A token is kept until five minutes before its end. Callers who come while it is being replaced share the outcome.
    The credential is opened for one token and closed again: these are many minutes apart, and a new credential has
    nothing cached, so that what it gives is fresh.
    """

    def __init__(
        self,
        scope: str,
        credential: str | Identity | Callable[[], AbstractAsyncContextManager[Credential]] = "default",
        *,
        clock: Clock,
    ) -> None:
        """`credential` is one of `CREDENTIAL_NAMES`, an identity, or opens one. Raises UsageError for another name."""
        self._scope = scope
        self._credential = Identity(credential) if isinstance(credential, str) else credential
        self._clock = clock
        self._lock = anyio.Lock()
        self._refreshes = 0
        self._held: TimedToken | None = None
        self._failure: str | None = None
        self._failed_at = 0.0

    @property
    def failure(self) -> str | None:
        """Why the last attempt to get a token failed, for people; None if it did not."""
        return self._failure

    async def token(self, *, fresh: bool = False) -> str:
        """A token for the scope."""
        return (await self.timed(fresh=fresh)).text

    async def timed(self, *, fresh: bool = False, beyond: float | None = None) -> TimedToken:
        """A token with its times. With `beyond` one that ends later than that moment (monotonic).

        If no such one can be had because the identity fails, that is an error then, even if the present one is good;
        if the identity gives the present one again, so do we.
        """
        held = self._usable(fresh=fresh, beyond=beyond)
        if held is not None:
            return held
        seen = self._refreshes
        async with self._lock:
            if self._refreshes != seen:
                # Somebody else's refresh ended while we waited: its outcome is ours.
                fresh = False
            held = self._usable(fresh=fresh, beyond=beyond)
            if held is None and not self._pausing():
                await self._refresh()
                held = self._usable(fresh=fresh, beyond=beyond)
        if held is None and not fresh and beyond is None and self._held is not None:
            # It could not be replaced early, but perhaps it has not ended either.
            held = self._held if self._clock.now() < self._held.ends_at else None
        if held is None:
            raise TransientError(self._failure or "no token", kind="unauthorized")
        return held

    def _usable(self, *, fresh: bool, beyond: float | None) -> TimedToken | None:
        held, now = self._held, self._clock.now()
        if held is None or now >= held.ends_at:
            return None
        if held.is_young(now):
            return held
        is_late = not held.is_early(now) or (beyond is not None and held.ends_at <= beyond)
        return None if fresh or is_late else held

    def _pausing(self) -> bool:
        return self._failure is not None and self._clock.now() - self._failed_at < _PAUSE_S

    async def _refresh(self) -> None:
        try:
            with anyio.fail_after(_REFRESH_TIMEOUT_S):
                opener = self._credential
                if isinstance(opener, Identity):
                    # Importing azure.identity takes a good part of a second: not on the event loop.
                    opener = await anyio.to_thread.run_sync(opener.opener)
                async with opener() as credential:
                    given = await credential.get_token(self._scope)
            problem = _problem(given.token)
            if problem is not None:
                raise ValueError(f"the identity's token {problem}")
        except Exception as error:
            self._failure = self._account(error)
            self._failed_at = self._clock.now()
        else:
            now = self._clock.now()
            # Turned into a span at once, so that a wall clock set later changes nothing.
            lasts_s = _remaining_s(given, self._clock.utc_now().timestamp())
            self._held = TimedToken(given.token, now, now + lasts_s, given.expires_on)
            self._failure = None
        self._refreshes += 1

    def _account(self, error: Exception) -> str:
        what = f"no answer within {_REFRESH_TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else str(error)
        return (
            f"no token for {self._scope} from credential {self._name!r} ({type(error).__name__}: {redact(what)}); "
            "check the identity: AZURE_* variables, workload or managed identity, or `az login`"
        )

    @property
    def _name(self) -> str:
        return self._credential.credential if isinstance(self._credential, Identity) else "given"

    def __repr__(self) -> str:
        return f"AzureIdentityToken({self._scope!r}, {self._name!r})"


def _remaining_s(given: AccessToken, utc_now_s: float) -> float:
    """How long a token that was given just now is good for, wherever our wall clock stands."""
    signed_s = signed_lifetime_s(given.token)
    remaining_s = given.expires_on - utc_now_s
    if remaining_s <= _FRESH_S:
        # Nobody gives a token that is about to end: our clock is ahead.
        remaining_s = _EARLY_S
    # Where our clock is behind, it is no longer than what its issuer's clock measured.
    return remaining_s if signed_s is None else min(remaining_s, signed_s)


def _read_start(path: Path) -> bytes:
    # Without O_NONBLOCK a pipe that nobody writes to would hold up the event loop, and with it every lock.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        return file.read(_MAX_TOKEN + 1) or b""


def _problem(token: str) -> str | None:
    """Say what is wrong with a token, and nothing of what it is."""
    if not token:
        return "is empty; put a bearer token there"
    if len(token) > _MAX_TOKEN:
        return f"is longer than {_MAX_TOKEN} bytes, so it is no bearer token"
    if not _TOKEN.match(token):
        return "holds blanks, line breaks or non-ASCII characters; put the bare token there, without 'Bearer'"
    return None
