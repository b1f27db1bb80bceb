"""How commands end, in the words of sysexits.h."""

from __future__ import annotations

from enum import IntEnum

from renewer.errors import RenewerError


class ExitCode(IntEnum):
    """The exit codes that renewer uses; `exec` passes on the codes of its command besides."""

    OK = 0
    FAILED = 1
    """What was asked about went wrong: a lock was lost, an operation did not succeed."""
    USAGE = 64
    DATA = 65
    NOT_FOUND = 66
    UNAVAILABLE = 69
    SOFTWARE = 70
    CANNOT_CREATE = 73
    IO = 74
    TRY_AGAIN = 75
    LOCK_LOST = 76
    """`exec` stopped its command because the lock was in danger or lost."""
    NO_PERMISSION = 77
    CONFIG = 78
    NOT_EXECUTABLE = 126
    COMMAND_NOT_FOUND = 127
    SIGNALLED = 128
    """Plus the number of the signal."""


EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 what was asked about went wrong (a lock lost, an operation failed); 64 wrong usage; "
    "65 input that cannot be used; 66 no such id or file; 69 no daemon, or a session that can never be had; "
    "73 socket or directory cannot be made; 74 I/O error; 75 not in time, or too much at once: try again; "
    "77 no permission; 78 wrong configuration."
)


class CommandError(RenewerError):
    """A command cannot do what it was asked to; the message says why and what to do next."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code
