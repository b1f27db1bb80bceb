"""How commands end, in the words of sysexits.h."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes that renewer uses."""

    OK = 0
    FAILED = 1
    USAGE = 64
    SOFTWARE = 70
    CONFIG = 78
