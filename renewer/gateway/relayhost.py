"""What a relay asks of the shell around it."""

from __future__ import annotations

from typing import Protocol


class RelayHost(Protocol):
    """The shell around a relay. Called from within the relay's methods; must not call those that bring bytes."""

    def dial(self) -> None:
        """Connect upstream; `dialed` or `dial_failed` follows."""
        ...

    def fetch_token(self, entity: str) -> None:
        """Get the gateway's own token for the entity; `token_ready` follows."""
        ...

    def flush(self) -> None:
        """Something was queued from outside: write it at the end of this turn."""
        ...

    def flush_now(self) -> None:
        """What is queued cannot wait: somebody waits for the locks that it frees."""
        ...

    def is_draining(self) -> bool:
        """Whether workers may go on with what they have, and begin nothing."""
        ...

    def let_in(self, key: str) -> None:
        """The worker proved this key for the first time."""
        ...

    def refused(self, why: str, detail: str) -> None:
        """The worker was refused something. `why`: key, entity, protocol, timeout."""
        ...

    def upstream_failed(self, detail: str) -> None:
        """The broker has closed the connection, fell silent, or cannot be understood."""
        ...
