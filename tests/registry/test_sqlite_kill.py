"""kill -9 at any moment: what was acknowledged is there, and no batch is half there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from renewer.ports import EntryKind, Opened
from renewer.registry import SqliteRegistry
from tests.registry.registry_rig import in_use, whole
from tests.registry.registry_writer import CALLBACKS_KEPT, INLINE_BYTES, batch, body

ROUNDS = int(os.environ.get("RENEWER_KILLS", "20"))
ROOT = Path(__file__).parents[2]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    dice = random.Random()
    newest = 0
    for generation in range(1, ROUNDS + 1):
        acknowledged = write_until_killed(tmp_path, newest + 1, dice) or newest
        registry = SqliteRegistry(tmp_path, inline_result_bytes=INLINE_BYTES)
        async with in_use(registry) as opened:
            assert opened.set_aside is None
            assert opened.generation <= 2 * generation
            found = newest_of(opened)
            assert acknowledged <= found <= acknowledged + 1
            check_entries(opened, found)
            since = 1 if generation == ROUNDS else newest + 1
            for number in range(since, found + 1):
                assert await whole(registry, f"operation-{number}") == body(number)
            if found:
                assert await whole(registry, "newest") == body(found)
            check_files(tmp_path, found)
        newest = found
    assert newest > 0


def write_until_killed(directory: Path, first: int, dice: random.Random) -> int | None:
    """Returns the last number that was acknowledged; None if there was none."""
    command = [sys.executable, "-m", "tests.registry.registry_writer", str(directory), str(first)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"opening\n"
        lines = [writer.stdout.readline() for _ in range(dice.choice([0, 0, 1, 2, 5, 20, 60]))]
        # Not to wait for something, but to kill it anywhere within what it does next.
        time.sleep(dice.uniform(0, 0.004))
        writer.kill()
        lines += writer.stdout.read().splitlines()
    return int(lines[-1]) if lines else None


def newest_of(opened: Opened) -> int:
    return max((entry.number for entry in opened.entries), default=0)


def check_entries(opened: Opened, newest: int) -> None:
    wanted = {}
    for number in range(1, newest + 1):
        for entry in batch(number).puts:
            wanted[entry.kind, entry.id] = entry
        wanted.pop((EntryKind.CALLBACK, f"callback-{number - CALLBACKS_KEPT}"), None)
    assert {(entry.kind, entry.id): entry for entry in opened.entries} == wanted


def check_files(directory: Path, newest: int) -> None:
    large = [number for number in [*range(1, newest + 1), newest] if number and body(number).size > INLINE_BYTES]
    assert len(list((directory / "results").iterdir())) == len(large)
