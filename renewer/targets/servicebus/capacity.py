"""What a connection and an AMQP session of one namespace carry: by our settings, and by what the broker refused.

Learned on one connection it holds for all, so that not each has to run into it. What it costs to find out differs. A
connection that is full refuses one attach, and another takes the session: that is tried again, gently. For one link too
many a broker may end the AMQP session, and all that is held in it is lost: that is believed at once, and for long.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import structlog

from renewer.targets.servicebus.ceilings import Ceiling

if TYPE_CHECKING:
    from renewer.amqp import AmqpError
    from renewer.ports import Clock

LEAST_LEARNED: Final = 5
"""No limit of links is believed that is lower than this."""

FORGET_S: Final = 24 * 3600.0
"""How long a limit of links is believed that was met once."""

_OTHER_CAUSES: Final = (
    "amqp:connection:",
    "amqp:link:",
    "amqp:session:window-violation",
    "amqp:decode-error",
    "amqp:frame-size-too-small",
    "amqp:invalid-field",
    "amqp:not-found",
    "amqp:not-implemented",
    "amqp:resource-deleted",
    "amqp:resource-locked",
    "amqp:unauthorized-access",
    "com.microsoft:argument-",
    "com.microsoft:auth-failed",
    "com.microsoft:container-close",
    "com.microsoft:entity-disabled",
    "com.microsoft:message-lock-lost",
    "com.microsoft:server-busy",
    "com.microsoft:session-cannot-be-locked",
    "com.microsoft:session-lock-lost",
    "com.microsoft:timeout",
)
"""How the conditions of errors begin that have nothing to do with how many links there are."""

log = structlog.get_logger("renewer.servicebus")


def may_be_links(error: AmqpError | None) -> bool:
    """Whether a broker may have ended an AMQP session with this error because of a link too many.

    There is no one condition for that. Without an error it was as a rule told to stop.
    """
    return error is not None and not str(error.condition).startswith(_OTHER_CAUSES)


class Capacity:
    """How many links an AMQP session of the namespace `target` may have, and how many sessions a connection.

    `most_links` is our own setting.
    """

    def __init__(self, clock: Clock, target: str, most_links: int) -> None:
        self.sessions = Ceiling(clock)
        """How many sessions a connection carries, as far as the broker has refused more."""
        self._clock = clock
        self._target = target
        self._most_links = most_links
        self._learned: int | None = None
        self._forget_at = 0.0
        self._lasts_s = FORGET_S

    @property
    def links(self) -> int:
        """How many links an AMQP session may have, those for requests counted."""
        if self._learned is None:
            return self._most_links
        if self._clock.now() >= self._forget_at:
            # It may have been an accident, so it is not kept for ever. But each time that it is none costs what is held
            # in an AMQP session, and too few links in each cost next to nothing: once met again, it is kept.
            self._learned, self._lasts_s = None, math.inf
            return self._most_links
        return self._learned

    def fell(self, carried: int, asked: int, error: AmqpError) -> None:
        """The broker ended an AMQP session that carried so many links, when so many more were asked for."""
        # A broker that is slow to answer may have ended it before it answered any: then it is looked for by halves.
        learned = carried if carried >= LEAST_LEARNED else (carried + asked) // 2
        if not LEAST_LEARNED <= learned < self.links:
            return
        if self._learned is None:
            self._forget_at = self._clock.now() + self._lasts_s
        self._learned = learned
        log.warning(
            "amqp session ended for its links",
            target=self._target,
            links_per_session=learned,
            error=str(error.condition),
            remedy=f"set links_per_session = {learned} in [{self._target}], as the daemon forgets it when it stops",
        )
