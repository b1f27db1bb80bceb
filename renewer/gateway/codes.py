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


DISPOSITION: Final = Code.DISPOSITION
FLOW: Final = Code.FLOW
TRANSFER: Final = Code.TRANSFER
"""Once more for those who ask for each frame: CPython 3.11 finds a name of a module much faster than one of a class."""
