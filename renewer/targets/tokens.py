"""Where bearer tokens come from. A source never shows a token in its repr or in an error."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread

from renewer.errors import TransientError, UsageError
from renewer.targets.origins import redact

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from renewer.ports import Clock

_TOKEN = re.compile(r"[!-~]+\Z")
_MAX_TOKEN = 64 * 1024
_EARLY_S = 300.0
"""A token is replaced so long before it ends."""
_FRESH_S = 30.0
"""A token younger than this is as fresh as one can be: another one would meet the same refusal."""
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


class AccessToken(Protocol):
    """What a credential of azure-core gives: the token, and when it ends in seconds since the epoch."""

    @property
    def token(self) -> str:
        """The bearer token."""
        ...

    @property
    def expires_on(self) -> int:
        """Seconds since the epoch."""
        ...


class Credential(Protocol):
    """A credential as in azure.identity.aio."""

    async def get_token(self, *scopes: str) -> AccessToken:
        """A token for `scopes`."""
        ...


_CREDENTIALS = {
    "default": "DefaultAzureCredential",
    "environment": "EnvironmentCredential",
    "workload-identity": "WorkloadIdentityCredential",
    "managed-identity": "ManagedIdentityCredential",
    "azure-cli": "AzureCliCredential",
}
CREDENTIAL_NAMES = tuple(_CREDENTIALS)
"""What `AzureIdentityToken` knows by name."""


@dataclass(slots=True)
class _Held:
    token: str
    obtained_at: float
    ends_at: float


class AzureIdentityToken:
    """Tokens of a Microsoft Entra identity, by azure-identity.

    A token is kept until five minutes before its end. Callers who come while it is being replaced share the outcome.
    The credential is opened for one token and closed again: these are hours apart, and a new credential has nothing
    cached, so that what it gives is fresh.
    """

    def __init__(
        self,
        scope: str,
        credential: str | Callable[[], AbstractAsyncContextManager[Credential]] = "default",
        *,
        clock: Clock,
    ) -> None:
        """`credential` is one of `CREDENTIAL_NAMES`, or opens one. Raises UsageError for another name."""
        if isinstance(credential, str) and credential not in _CREDENTIALS:
            raise UsageError(f"credential: {credential!r} is not known; use one of {', '.join(CREDENTIAL_NAMES)}")
        self._scope = scope
        self._credential = credential
        self._clock = clock
        self._lock = anyio.Lock()
        self._refreshes = 0
        self._held: _Held | None = None
        self._failure: str | None = None
        self._failed_at = 0.0

    async def token(self, *, fresh: bool = False) -> str:
        """A token for the scope."""
        held = self._usable(fresh=fresh)
        if held is not None:
            return held.token
        seen = self._refreshes
        async with self._lock:
            if self._refreshes != seen:
                # Somebody else's refresh ended while we waited: its outcome is ours.
                fresh = False
            held = self._usable(fresh=fresh)
            if held is None and not self._pausing():
                await self._refresh()
                held = self._usable(fresh=fresh)
        if held is None and not fresh and self._held is not None and self._clock.now() < self._held.ends_at:
            # It could not be replaced early, but it has not ended either.
            held = self._held
        if held is None:
            raise TransientError(self._failure or "no token", kind="unauthorized")
        return held.token

    def _usable(self, *, fresh: bool) -> _Held | None:
        held, now = self._held, self._clock.now()
        if held is None:
            return None
        if now - held.obtained_at < _FRESH_S and now < held.ends_at:
            return held
        return held if not fresh and now < held.ends_at - _EARLY_S else None

    def _pausing(self) -> bool:
        return self._failure is not None and self._clock.now() - self._failed_at < _PAUSE_S

    async def _refresh(self) -> None:
        try:
            with anyio.fail_after(_REFRESH_TIMEOUT_S):
                open_credential = self._credential
                if isinstance(open_credential, str):
                    # Importing azure.identity takes a good part of a second: not on the event loop.
                    open_credential = await anyio.to_thread.run_sync(_named_credential, open_credential)
                async with open_credential() as credential:
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
            # and what was given just now is good for a while, wherever our wall clock stands.
            lasts_s = max(given.expires_on - self._clock.utc_now().timestamp(), _EARLY_S)
            self._held = _Held(given.token, now, now + lasts_s)
            self._failure = None
        self._refreshes += 1

    def _account(self, error: Exception) -> str:
        name = self._credential if isinstance(self._credential, str) else "given"
        what = f"no answer within {_REFRESH_TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else str(error)
        return (
            f"no token for {self._scope} from credential {name!r} ({type(error).__name__}: {redact(what)}); "
            "check the identity: AZURE_* variables, workload or managed identity, or `az login`"
        )

    def __repr__(self) -> str:
        name = self._credential if isinstance(self._credential, str) else "given"
        return f"AzureIdentityToken({self._scope!r}, {name!r})"


def _named_credential(name: str) -> Callable[[], AbstractAsyncContextManager[Credential]]:
    from azure.identity import aio

    opener: Callable[[], AbstractAsyncContextManager[Credential]] = getattr(aio, _CREDENTIALS[name])
    return opener


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_TOKEN + 1)


def _problem(token: str) -> str | None:
    """Say what is wrong with a token, and nothing of what it is."""
    if not token:
        return "is empty; put a bearer token there"
    if len(token) > _MAX_TOKEN:
        return f"is longer than {_MAX_TOKEN} bytes, so it is no bearer token"
    if not _TOKEN.match(token):
        return "holds blanks, line breaks or non-ASCII characters; put the bare token there, without 'Bearer'"
    return None
