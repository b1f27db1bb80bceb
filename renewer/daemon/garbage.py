"""When the garbage collector runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_for_good() -> Iterator[None]:
    """What is made meanwhile, by imports or of what was stored, is never looked through for garbage.

    To do so again and again took a fifth of the time to start; the garbage that stays is under 1 MiB.
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def collect_seldom() -> None:
    """What is here by now stays, and what comes is most often freed without a collector's help.

    Left as it is, collecting takes a seventh of the time under thousands of polls a second, and a full collection holds
    the loop for a tenth of a second; with 100,000 leases for half a second. Collections of the young are kept short as
    well, but for what 2,000 renewals have under way at once, some 12,000 objects: to look through them each time took a
    tenth of a renewal. What is behind them is looked through after three of these: up to 25 ms.
    """
    gc.freeze()
    gc.set_threshold(20_000, 2, 2_000)
