"""What is still there without a garbage collector's help."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collector() -> Iterator[None]:
    """What is in cycles stays until the end."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def living(kind: type) -> list[object]:
    """All objects of this very class."""
    return [thing for thing in gc.get_objects() if type(thing) is kind]
