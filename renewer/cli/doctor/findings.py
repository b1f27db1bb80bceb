"""What a check says, and running checks: each with a time-out of its own, and none able to end the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Generic, TypeVar

import anyio

from renewer.errors import RenewerError

CHECK_TIMEOUT_S: Final = 5.0

_T = TypeVar("_T")


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Outcome(Generic[_T]):
    """What one check saw, for people; what to do about it, unless all is well; and what the next check goes on with."""

    verdict: Verdict
    seen: str
    remedy: str | None = None
    value: _T | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check, with what was looked at (``servicebus.main``) and in what respect (``tls``)."""

    subject: str
    check: str
    verdict: Verdict
    seen: str
    remedy: str | None = None


def ok(seen: str, value: _T | None = None) -> Outcome[_T]:
    """All is well."""
    return Outcome(Verdict.OK, seen, value=value)


def warn(seen: str, remedy: str, value: _T | None = None) -> Outcome[_T]:
    """It works, and yet."""
    return Outcome(Verdict.WARN, seen, remedy, value)


def fail(seen: str, remedy: str) -> Outcome[_T]:
    """It does not work."""
    return Outcome(Verdict.FAIL, seen, remedy)


class Examination:
    """The checks of one subject, one after the other. `on_change` is called whenever one begins or ends."""

    def __init__(self, subject: str, on_change: Callable[[], None] = lambda: None) -> None:
        self.subject = subject
        self.findings: list[Finding] = []
        self.under_way: str | None = None
        """The check that is being made."""
        self._on_change = on_change

    async def check(
        self,
        name: str,
        work: Callable[[], Awaitable[Outcome[_T]]],
        *,
        remedy: str,
        timeout_s: float = CHECK_TIMEOUT_S,
    ) -> _T | None:
        """Make one check and keep what it says. Its value, where there is one; None where it failed.

        `remedy` is what to do when `work` raises one of our errors or an `OSError`, or takes too long.
        """
        self.under_way = name
        self._on_change()
        outcome = await self._outcome(work, remedy, timeout_s)
        self.add(name, outcome)
        self.under_way = None
        self._on_change()
        return outcome.value

    def add(self, name: str, outcome: Outcome[_T]) -> None:
        """Keep what was found without a check of its own."""
        self.findings.append(Finding(self.subject, name, outcome.verdict, outcome.seen, outcome.remedy))

    @staticmethod
    async def _outcome(work: Callable[[], Awaitable[Outcome[_T]]], remedy: str, timeout_s: float) -> Outcome[_T]:
        try:
            with anyio.move_on_after(timeout_s) as scope:
                return await work()
        except RenewerError as error:
            return fail(str(error), remedy)
        except OSError as error:
            return fail(error.strerror or type(error).__name__, remedy)
        except Exception as error:
            # A fault of ours in one check must not cost the user the others; what it says may be a secret.
            return fail(f"the check itself went wrong ({type(error).__name__})", "please report this")
        if scope.cancelled_caught:
            return fail(f"no answer within {timeout_s:g} s", remedy)
        return fail("the check was cut short", remedy)


def worst(findings: list[Finding]) -> Verdict:
    """The verdict on all of them."""
    verdicts = {finding.verdict for finding in findings}
    return next((verdict for verdict in (Verdict.FAIL, Verdict.WARN) if verdict in verdicts), Verdict.OK)
