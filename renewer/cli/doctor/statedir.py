"""Where the daemon keeps its state: whether it is there, ours alone, on a disk with room, and sound. Blocking calls.

Nothing is changed but for one small file, made and removed again. The registry is read without locks and without making
the files that SQLite keeps beside it, so that a daemon that runs or starts meanwhile notices nothing.
"""

from __future__ import annotations

import os
import pwd
import re
import sqlite3
import stat
import tempfile
import time
from pathlib import Path
from typing import Final

from renewer.cli.doctor.findings import Outcome, fail, ok, warn
from renewer.errors import RenewerError
from renewer.registry.failures import DamagedError
from renewer.registry.schema import MIGRATIONS, version_of
from renewer.registry.sqlite import DATABASE, LOCK

LEAST_FREE: Final = 64 * 1024**2
LITTLE_FREE: Final = 1024**3
SLOW_FLUSH_S: Final = 1.0

_NETWORK: Final = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ceph|glusterfs|lustre|beegfs|gpfs|ocfs2|fuse\.(sshfs|s3fs|blobfuse2?|glusterfs|ceph.*)"
)
_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_CHECK_S: Final = 4.0
"""How long the database may be looked through; less than the check as a whole has."""


def examine_place(path: Path) -> Outcome[Path]:
    """Whether the directory is there, or can be made. Its value is where the other checks look."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return _examine_parent(path)
    except OSError as error:
        return fail(f"{path}: {error.strerror}", f"let {_me()} enter the directories above it")
    if not stat.S_ISDIR(about.st_mode):
        return fail(f"{path} is not a directory", "move it away, or set another daemon.state_dir")
    mode, owner = stat.S_IMODE(about.st_mode), _user(about.st_uid)
    seen = f"{path}, {mode:04o}, owner {owner}"
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return fail(f"{seen}; {_me()} may not write there", f"run this as the daemon's user, or: chown {_me()} {path}")
    if mode & 0o077:
        return warn(f"{seen}: others may look in", f"chmod 0700 {path}", path)
    return ok(seen, path)


def examine_writing(path: Path) -> Outcome[None]:
    """Whether a file can be written and flushed to the disk, and how fast."""
    begun_at = time.monotonic()
    with tempfile.NamedTemporaryFile(dir=path, prefix=".doctor-") as file:
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
    took_s = time.monotonic() - begun_at
    seen = f"a file was written and flushed in {took_s * 1000:.0f} ms"
    if took_s > SLOW_FLUSH_S:
        return warn(seen, "every registration waits for this: choose a faster disk for daemon.state_dir")
    return ok(seen)


def examine_space(path: Path) -> Outcome[None]:
    """Whether there is room, in bytes and in files."""
    about = os.statvfs(path)
    free = about.f_bavail * about.f_frsize
    seen = f"{free / 1024**3:.1f} GiB free"
    remedy = "make room, or choose another disk for daemon.state_dir: results of operations are kept there"
    if about.f_files and not about.f_favail:
        return fail(f"{seen}, but no file can be made: the file system is out of inodes", remedy)
    if free < LEAST_FREE:
        return fail(f"{free / 1024**2:.0f} MiB free", remedy)
    return warn(seen, remedy) if free < LITTLE_FREE else ok(seen)


def examine_file_system(path: Path, *, mounts: Path = Path("/proc/self/mountinfo")) -> Outcome[None]:
    """Whether what is written there stays there, and can be locked."""
    kind = _file_system(path.resolve(), mounts)
    if kind is None:
        return ok("not known on this system")
    if _NETWORK.fullmatch(kind):
        return warn(
            f"{kind}, a network file system: SQLite's locks and shared memory are not safe there",
            "set daemon.state_dir to a local disk",
        )
    if kind in _MEMORY:
        return warn(
            f"{kind}, which is in memory: after a reboot everything registered is gone",
            "set daemon.state_dir to a lasting place, such as /var/lib/renewer",
        )
    return ok(kind)


def examine_registry(path: Path, *, locks: Path = Path("/proc/locks")) -> Outcome[None]:
    """Whether the registry's file is sound, of a schema that we know, and who uses it."""
    file = path / DATABASE
    try:
        about = file.stat()
    except FileNotFoundError:
        return ok("none yet; the daemon makes it")
    user = _lock_holder(path / LOCK, locks)
    used = f"; in use by process {user}" if user is not None else ""
    wal = file.with_name(file.name + "-wal")
    has_wal = wal.exists() and wal.stat().st_size > 0
    if has_wal and not file.with_name(file.name + "-shm").exists():
        return ok(f"{about.st_size} bytes, with changes that its next start takes in; not looked through")
    try:
        version = _read(file, immutable=not has_wal)
    except sqlite3.OperationalError as error:
        if "interrupted" in str(error):
            return ok(f"{about.st_size} bytes; too large to be looked through in {_CHECK_S:g} s{used}")
        return fail(f"{file}: {error}", f"run this as the daemon's user; {_me()} cannot read it")
    except (sqlite3.DatabaseError, DamagedError) as error:
        return fail(
            f"{file} is damaged: {error}",
            "the daemon sets it aside at its next start, saves what can be read, and says so; if you have a copy, put "
            "it back while no daemon runs",
        )
    except RenewerError as error:
        return fail(str(error), "run that version, or move the file away")
    mode = stat.S_IMODE(about.st_mode)
    seen = f"sound, schema {version}, {about.st_size} bytes{used}"
    if mode & 0o077:
        return warn(f"{seen}; mode {mode:04o} lets others read it", f"chmod 0600 {file}")
    return ok(seen)


def _examine_parent(path: Path) -> Outcome[Path]:
    parent = next(above for above in path.absolute().parents if above.exists())
    if not parent.is_dir():
        return fail(f"{parent} is not a directory", "set another daemon.state_dir")
    if not os.access(parent, os.W_OK | os.X_OK):
        return fail(
            f"{path} is not there, and {_me()} may not make it in {parent}", f"install -d -m 0700 -o {_me()} {path}"
        )
    return ok(f"{path} is not there yet; the daemon makes it", parent)


def _read(file: Path, *, immutable: bool) -> int:
    uri = f"{file.absolute().as_uri()}?{'immutable=1' if immutable else 'mode=ro'}"
    ends_at = time.monotonic() + _CHECK_S
    connection = sqlite3.connect(uri, uri=True, timeout=1, isolation_level=None)
    try:
        connection.set_progress_handler(lambda: time.monotonic() > ends_at, 10_000)
        version = version_of(file, connection, len(MIGRATIONS))
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise DamagedError("its pages do not fit together")
        return version
    finally:
        connection.close()


def _file_system(path: Path, mounts: Path) -> str | None:
    """The type of the file system that holds `path`: that of the deepest mount above it, the latest of equals."""
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    best: tuple[int, str] | None = None
    for line in lines:
        # proc_pid_mountinfo(5): the mount point is the fifth field, the type the first after a lone dash.
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if not dash or len(fields) < 5 or not after:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        if path.is_relative_to(point) and (best is None or len(point) >= best[0]):
            best = len(point), after.split()[0]
    return None if best is None else best[1]


def _lock_holder(lock: Path, locks: Path) -> int | None:
    """The process that holds the lock, by proc_locks(5): to try the lock would keep a daemon from starting."""
    try:
        inode = lock.stat().st_ino
        lines = locks.read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4]) if fields[4].isdecimal() else None
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _me() -> str:
    return _user(os.geteuid())
