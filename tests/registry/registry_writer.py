"""A process that writes batch after batch and says which were acknowledged, until it is killed.

Each batch puts three things and a result, takes one away, and replaces one, so that a half-made batch shows.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import anyio

from renewer.core.model import Result
from renewer.ports import Batch, Entry, EntryKind
from renewer.registry import SqliteRegistry

INLINE_BYTES = 64
CALLBACKS_KEPT = 3


def body(number: int) -> Result:
    """Every other one is too large for its row."""
    return Result("bytes", None, f"result {number} ".encode() * (1 if number % 2 else 50))


def batch(number: int) -> Batch:
    document = {"number": number, "text": "x" * (number % 7) * 500}
    return Batch(
        puts=[
            Entry(EntryKind.LEASE, f"lease-{number}", number, document),
            Entry(EntryKind.OPERATION, f"operation-{number}", number, document),
            Entry(EntryKind.CALLBACK, f"callback-{number}", number, document),
            Entry(EntryKind.OPERATION, "newest", 0, document),
        ],
        deletes=[(EntryKind.CALLBACK, f"callback-{number - CALLBACKS_KEPT}")],
        results={f"operation-{number}": body(number), "newest": body(number)},
    )


async def main(directory: Path, first: int) -> None:
    registry = SqliteRegistry(directory, inline_result_bytes=INLINE_BYTES)
    say("opening")
    await registry.open()
    for number in count(first):
        await registry.write(batch(number))
        say(str(number))


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
