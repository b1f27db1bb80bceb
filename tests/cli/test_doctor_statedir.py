"""What the doctor says of the directory where state is kept."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import anyio
import pytest

from renewer.cli.doctor import statedir
from renewer.cli.doctor.findings import Verdict
from renewer.ports import Batch, Entry, EntryKind
from renewer.registry import SqliteRegistry
from renewer.registry.schema import MIGRATIONS
from tests.cli.doctor_rig import findings_of, settings

DATABASE = "registry.sqlite3"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    made = tmp_path / "state"
    made.mkdir(mode=0o700)
    return made


def write_registry(state: Path) -> None:
    async def write() -> None:
        registry = SqliteRegistry(state)
        await registry.open()
        await registry.write(Batch(puts=[Entry(EntryKind.LEASE, "lease-1", 1, {"v": 1})]))
        await registry.close()

    anyio.run(write)


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    async def look() -> None:
        found = await findings_of(settings(tmp_path), "state_dir")
        assert list(found) == ["directory", "space", "file system"]
        assert "not there yet" in found["directory"].seen

    anyio.run(look)
    assert not (tmp_path / "state").exists()


def test_a_directory_that_is_well_is_found_well_and_left_as_it_is(state: Path) -> None:
    async def look() -> None:
        found = await findings_of(settings(state.parent), "state_dir")
        assert list(found) == ["directory", "writing", "space", "file system", "registry"]
        assert all(finding.verdict is not Verdict.FAIL for finding in found.values())

    anyio.run(look)
    assert list(state.iterdir()) == []


def test_a_directory_that_others_may_look_into_is_a_warning(state: Path) -> None:
    state.chmod(0o755)
    outcome = statedir.examine_place(state)
    assert outcome.verdict is Verdict.WARN
    assert outcome.remedy == f"chmod 0700 {state}"
    assert outcome.value == state


def test_something_that_is_no_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert statedir.examine_place(tmp_path / "file").verdict is Verdict.FAIL
    assert statedir.examine_place(tmp_path / "file" / "state").verdict is Verdict.FAIL


def test_a_directory_that_we_may_not_write_to_is_said(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    there, missing = statedir.examine_place(state), statedir.examine_place(state / "deeper")
    assert {there.verdict, missing.verdict} == {Verdict.FAIL}
    assert "chown" in str(there.remedy)
    assert "install -d" in str(missing.remedy)


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("30 1 8:1 / {} rw shared:1 - ext4 /dev/sda1 rw", Verdict.OK),
        ("30 1 0:50 / {} rw - nfs4 server:/export rw", Verdict.WARN),
        ("30 1 0:50 / {} rw - fuse.sshfs host: rw", Verdict.WARN),
        ("30 1 0:50 / {} rw - cifs //host/share rw", Verdict.WARN),
        ("30 1 0:50 / {} rw master:3 - tmpfs tmpfs rw", Verdict.WARN),
    ],
)
def test_a_network_or_memory_file_system_is_a_warning(state: Path, line: str, verdict: Verdict) -> None:
    mounts = state.parent / "mounts"
    mounts.write_text(f"1 0 8:1 / / rw - ext4 /dev/sda rw\n{line.format(state)}\nnonsense\n")
    assert statedir.examine_file_system(state / "deeper", mounts=mounts).verdict is verdict
    assert statedir.examine_file_system(Path("/elsewhere"), mounts=mounts).verdict is Verdict.OK
    assert statedir.examine_file_system(state, mounts=state / "none").verdict is Verdict.OK


def test_little_room_is_a_warning_and_none_a_failure(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(state)

    def with_free(free: int, files: int) -> None:
        fields = list(real)
        fields[1], fields[4], fields[5], fields[7] = 1, free, 1000, files
        monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(fields))

    for free, files, verdict in (
        (10 * 1024**3, 10, Verdict.OK),
        (500 * 1024**2, 10, Verdict.WARN),
        (1024**2, 10, Verdict.FAIL),
        (10 * 1024**3, 0, Verdict.FAIL),
    ):
        with_free(free, files)
        assert statedir.examine_space(state).verdict is verdict


def test_a_registry_that_is_sound_is_looked_at_without_a_trace(state: Path) -> None:
    write_registry(state)
    before = {file.name: file.stat().st_mtime_ns for file in state.iterdir()}
    outcome = statedir.examine_registry(state)
    assert outcome.verdict is Verdict.OK
    assert f"sound, schema {len(MIGRATIONS)}" in outcome.seen
    assert {file.name: file.stat().st_mtime_ns for file in state.iterdir()} == before


def test_a_registry_that_is_in_use_is_looked_at_and_its_user_named(state: Path) -> None:
    async def look() -> None:
        registry = SqliteRegistry(state)
        await registry.open()
        try:
            await registry.write(Batch(puts=[Entry(EntryKind.LEASE, "lease-1", 1, {"v": 1})]))
            locks = state.parent / "locks"
            inode = (state / "registry.lock").stat().st_ino
            locks.write_text(
                f"1: POSIX  ADVISORY  WRITE 5 08:01:{inode} 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 08:01:{inode} 0 EOF\n"
            )
            outcome = statedir.examine_registry(state, locks=locks)
            assert outcome.verdict is Verdict.OK
            assert "in use by process 4711" in outcome.seen
            await registry.write(Batch(puts=[Entry(EntryKind.LEASE, "lease-2", 2, {"v": 1})]))
        finally:
            await registry.close()

    anyio.run(look)


def test_a_registry_that_is_damaged_is_said_and_not_touched(state: Path) -> None:
    (state / DATABASE).write_bytes(b"SQLite format 3\0" + b"nonsense" * 2000)
    outcome = statedir.examine_registry(state)
    assert outcome.verdict is Verdict.FAIL
    assert "damaged" in outcome.seen
    (state / DATABASE).write_bytes(b"no database at all")
    assert statedir.examine_registry(state).verdict is Verdict.FAIL
    assert [file.name for file in state.iterdir()] == [DATABASE]


def test_a_registry_of_a_newer_version_is_said(state: Path) -> None:
    write_registry(state)
    connection = sqlite3.connect(state / DATABASE)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    outcome = statedir.examine_registry(state)
    assert outcome.verdict is Verdict.FAIL
    assert "99" in outcome.seen


def test_a_registry_that_others_may_read_is_a_warning(state: Path) -> None:
    write_registry(state)
    (state / DATABASE).chmod(0o644)
    outcome = statedir.examine_registry(state)
    assert outcome.verdict is Verdict.WARN
    assert str(outcome.remedy).startswith("chmod 0600")
