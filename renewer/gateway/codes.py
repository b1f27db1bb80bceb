"""The numbers of the performatives (AMQP 1.0 part 2.7), by which frames are told apart without being decoded."""

from __future__ import annotations

from typing import Final


class Code:
    """The descriptor of a frame body."""

    OPEN: Final = 0x10
    BEGIN: Final = 0x11
    ATTACH: Final = 0x12
    FLOW: Final = 0x13
    TRANSFER: Final = 0x14
    DISPOSITION: Final = 0x15
    DETACH: Final = 0x16
    END: Final = 0x17
    CLOSE: Final = 0x18


class State:
    """The descriptor of a delivery state (AMQP 1.0 part 3.4); a transactional one is part 4.5.8."""

    ACCEPTED: Final = 0x24
    REJECTED: Final = 0x25
    RELEASED: Final = 0x26
    MODIFIED: Final = 0x27
    TRANSACTIONAL: Final = 0x34

    OUTCOMES: Final = frozenset((ACCEPTED, REJECTED, RELEASED, MODIFIED, TRANSACTIONAL))
