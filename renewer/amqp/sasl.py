"""Letting a client in before AMQP starts (AMQP 1.0 part 5.3): mechanisms that take one message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from renewer.amqp.performatives import SaslInit

SASL_OK: Final = 0
SASL_AUTH_FAILED: Final = 1

MAX_SASL_FRAME_SIZE: Final = 4096
"""The standard says 512; a password may be longer than that."""

Authenticate: TypeAlias = "Callable[[str, str, str], bool]"
"""(mechanism, user, password) -> whether to let in; user and password are empty but for PLAIN. It must not raise."""


@dataclass(frozen=True, slots=True)
class SaslAnonymous:
    """Client: no credentials here; with Service Bus they come later, on `$cbs`."""

    mechanism: str = field(default="ANONYMOUS", init=False)

    def initial_response(self) -> bytes:
        """Nothing to say."""
        return b""


@dataclass(frozen=True, slots=True)
class SaslPlain:
    """Client: user and password (RFC 4616); for Service Bus the name and the key of a rule."""

    user: str
    password: str = field(repr=False)
    mechanism: str = field(default="PLAIN", init=False)

    def initial_response(self) -> bytes:
        """The empty authorization identity, user and password."""
        return b"\0" + self.user.encode() + b"\0" + self.password.encode()


SaslClient: TypeAlias = SaslAnonymous | SaslPlain


@dataclass(frozen=True, slots=True)
class SaslServer:
    """Server: what is offered and who is let in, everybody without `authenticate`.

    With `required=False` a peer may also start with AMQP at once.
    """

    mechanisms: Sequence[str]
    authenticate: Authenticate | None = None
    required: bool = True

    def outcome(self, init: SaslInit) -> int:
        """The code for the peer's answer (part 5.3.3.6)."""
        if init.mechanism not in self.mechanisms:
            return SASL_AUTH_FAILED
        user = password = ""
        if init.mechanism == "PLAIN":
            try:
                _, user, password = (init.initial_response or b"").decode().split("\0")
            except ValueError:
                return SASL_AUTH_FAILED
        if self.authenticate is not None and not self.authenticate(init.mechanism, user, password):
            return SASL_AUTH_FAILED
        return SASL_OK
