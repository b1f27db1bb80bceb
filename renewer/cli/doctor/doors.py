"""The addresses that the daemon listens on: free for it, or already its own. Blocking calls."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from renewer.cli.doctor.findings import Outcome, fail, ok

if TYPE_CHECKING:
    from pathlib import Path

    from renewer.config import TcpListen, UnixListen

CONNECT_TIMEOUT_S: Final = 2.0

_PEER: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who listens at an address. `pid` is known for Unix sockets alone."""

    pid: int | None = None


def examine_unix_door(listen: UnixListen, setting: str = "api.listen") -> Outcome[Peer]:
    """Whether a daemon listens at the socket, or one could. The value is who listens; None if nobody does."""
    path = listen.path
    try:
        about = path.lstat()
    except FileNotFoundError:
        return _examine_folder(path, setting)
    except OSError as error:
        return fail(f"{path}: {error.strerror}", "let this user enter the directories above it")
    if not stat.S_ISSOCK(about.st_mode):
        return fail(f"{path} is there and is not a socket", f"move it away, or set another {setting}")
    shown = f"{path}, {stat.S_IMODE(about.st_mode):04o}, group {_group(about.st_gid)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except PermissionError:
            return fail(f"{shown}: this user may not connect", _way_in(about.st_gid))
        except ConnectionRefusedError:
            return ok(f"{shown}; left behind by a daemon that is gone, and replaced at the next start")
        except TimeoutError:
            return fail(f"{shown}: a daemon is there and takes no connection", "look at its log; restart it")
        pid, _, _ = _PEER.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return ok(f"{shown}; a daemon listens" + (f" (process {pid})" if pid else ""), Peer(pid or None))


def examine_tcp_door(listen: TcpListen, setting: str) -> Outcome[Peer]:
    """Whether somebody listens at the port, or the daemon could. The value is who listens; None if nobody does."""
    if listen.port == 0:
        return ok(f"{listen.authority}: the system chooses a port at the start")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104 - it is connected to
    try:
        with socket.create_connection((host, listen.port), timeout=CONNECT_TIMEOUT_S):
            return ok(f"{listen.authority} is in use", Peer())
    except OSError:
        # Nobody is there: what matters is whether we could be.
        return _try_port(listen, setting)


def _try_port(listen: TcpListen, setting: str) -> Outcome[Peer]:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            remedies = {
                errno.EACCES: "choose a port from 1024 on",
                errno.EPERM: "choose a port from 1024 on",
                errno.EADDRINUSE: "end what uses it, or choose another port",
                errno.EADDRNOTAVAIL: "this machine has no such address: 127.0.0.1 is its own, 0.0.0.0 is all of them",
            }
            remedy = remedies.get(error.errno or 0, "choose another address or port")
            return fail(f"{listen.authority}: {error.strerror or error}", f"{remedy}; the setting is {setting}")
    return ok(f"{listen.authority} is free")


def _examine_folder(path: Path, setting: str) -> Outcome[Peer]:
    folder = next(above for above in path.absolute().parents if above.exists())
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return ok(f"{path} is not there: no daemon listens, and one could")
    return fail(
        f"{path} is not there, and this user may not make it in {folder}",
        f"make {path.parent} writable for the daemon's user (RuntimeDirectory= in systemd), or set another {setting}",
    )


def _way_in(gid: int) -> str:
    # Whoever is in root's group may do far more than use a socket.
    if gid == 0:
        return (
            "name a group of those who may use it as [api] socket_group, restart the daemon, and add the user to it; "
            "or run this with sudo"
        )
    return f"add the user to the group {_group(gid)} and log in anew, or run this with sudo"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
