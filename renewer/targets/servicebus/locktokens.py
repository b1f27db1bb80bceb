"""Lock tokens as people pass them on: the text that the official SDKs show.

A delivery-tag holds the token in .NET's byte order, `$management` takes it in network order. The SDKs turn the one into
the other before they show it (azure-servicebus 7.15: `message.lock_token`), so that its text is the AMQP uuid to send.
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from renewer.errors import UsageError

_UUID: Final = re.compile(r"(\{)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?(1)\})", re.IGNORECASE)
_WHAT_WOULD_DO: Final = (
    "lock_token: give the message's lock token as the SDK shows it, a UUID such as "
    "01234567-89ab-cdef-0123-456789abcdef (in Python str(message.lock_token))"
)


def parse_lock_token(text: object) -> UUID:
    """The token that `text` shows. UsageError, which does not repeat it, if it is none."""
    match = _UUID.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        # Thirty-two digits without dashes are refused too: they may be a delivery-tag, whose order is another.
        raise UsageError(_WHAT_WOULD_DO)
    token = UUID(match[2])
    if not token.int:
        raise UsageError(
            "lock_token: all zeros is what a message shows that was peeked, or received in receive-and-delete mode: "
            "it has no lock to keep; receive it in peek-lock mode"
        )
    return token


def without_token(token: UUID, text: str) -> str:
    """The broker's words, in which the token may be repeated."""
    return re.sub(f"{token}|{token.hex}|{token.bytes_le.hex()}", "<redacted>", text, flags=re.IGNORECASE)
