"""Whether those who are to use a Unix socket can reach it."""

from __future__ import annotations

import grp
import os
from typing import TYPE_CHECKING

from renewer.config.findings import Finding
from renewer.config.listen import TcpListen, UnixListen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from renewer.config.keylines import KeyPath
    from renewer.config.model import Settings


def check_socket_group(
    group: str, listen: UnixListen | TcpListen, here: KeyPath, settings: Settings, *, elsewhere: str
) -> Iterator[Finding]:
    """Every mistake in `socket_group` of the section at `here`. `elsewhere` is an address that would do."""
    at, address = (*here, "socket_group"), (*here, "listen")
    if isinstance(listen, TcpListen):
        yield Finding(at, "has no effect on a TCP port; take it out, or listen on unix:", (address,))
        return
    if settings.daemon.state_dir.absolute() in listen.path.absolute().parents:
        yield Finding(
            at,
            f"would reach nobody: {listen.path} is in daemon.state_dir, which is for its owner alone; listen "
            f"elsewhere, as on {elsewhere}",
            (address, ("daemon", "state_dir")),
        )
    try:
        number = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        yield Finding(at, "must be a group of this machine; make it, or name another")
        return
    if os.geteuid() != 0 and number not in {os.getegid(), *os.getgroups()}:
        yield Finding(at, "must be a group that this user is a member of: nobody else may give a file to it")
