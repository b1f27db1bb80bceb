"""The attempts of one lease that are under way, by number, the oldest first: those that are still listened to.

An attempt that had its time is overdue: the next one starts, and its own answer counts all the same when it comes.
"""

from __future__ import annotations

Outstanding = tuple[int, ...]
"""Most often none or one, so a tuple: none costs nothing, where a deque takes 600 bytes for each lease."""


def without(outstanding: Outstanding, attempt: int) -> Outstanding:
    """The others, once this one has ended; no error if it is not among them."""
    if attempt not in outstanding:
        return outstanding
    place = outstanding.index(attempt)
    return outstanding[:place] + outstanding[place + 1 :]


def make_room(outstanding: Outstanding, most: int) -> tuple[Outstanding, Outstanding]:
    """Those that stay and those to be cancelled, so that with one more there are at most `most`.

    The oldest is kept for as long as it can be: if answers are late, its answer is the next to come.
    """
    surplus = len(outstanding) - most + 1
    if surplus <= 0:
        return outstanding, ()
    oldest = outstanding[:1] if most > 1 else ()
    rest = outstanding[len(oldest) :]
    return oldest + rest[surplus:], rest[:surplus]
