"""The links of a session by our handle, by the peer's, and by name; and which handles are free."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from renewer.amqp.receiver import ReceiverLink
    from renewer.amqp.sender import SenderLink


class LinkTable:
    """Handles are given out lowest first and again as soon as both sides have detached."""

    def __init__(self) -> None:
        self._by_handle: dict[int, SenderLink | ReceiverLink] = {}
        self._by_remote: dict[int, SenderLink | ReceiverLink] = {}
        self._by_name: dict[tuple[str, bool], SenderLink | ReceiverLink] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._by_handle)

    def all(self) -> list[SenderLink | ReceiverLink]:
        """Every link that holds a handle."""
        return list(self._by_handle.values())

    def next_handle(self) -> int:
        """The handle that `add` expects of the next link."""
        return self._free[0] if self._free else len(self._by_handle)

    def add(self, link: SenderLink | ReceiverLink) -> None:
        """Take in a link under its handle, name and role."""
        if self._free:
            heapq.heappop(self._free)
        self._by_handle[link.handle] = link
        self._by_name[link.name, link.role] = link

    def named(self, name: str, role: bool) -> SenderLink | ReceiverLink | None:
        """The link of that name whose end here has that role."""
        return self._by_name.get((name, role))

    def bind(self, link: SenderLink | ReceiverLink, remote_handle: int) -> None:
        """Note the peer's handle. AmqpProtocolError if it is in use."""
        if remote_handle in self._by_remote:
            raise AmqpProtocolError("attach to a handle in use", condition="amqp:session:handle-in-use")
        self._by_remote[remote_handle] = link

    def find(self, remote_handle: int) -> SenderLink | ReceiverLink | None:
        """The link that the peer means, if there is one."""
        return self._by_remote.get(remote_handle)

    def bound(self, remote_handle: int) -> SenderLink | ReceiverLink:
        """The link that the peer means. AmqpProtocolError if there is none."""
        link = self._by_remote.get(remote_handle)
        if link is None:
            raise AmqpProtocolError("a handle without a link", condition="amqp:session:unattached-handle")
        return link

    def remove(self, link: SenderLink | ReceiverLink, remote_handle: int) -> None:
        """Both sides have detached."""
        del self._by_remote[remote_handle]
        del self._by_handle[link.handle]
        del self._by_name[link.name, link.role]
        heapq.heappush(self._free, link.handle)

    def clear(self) -> None:
        """The session is over."""
        self._by_handle.clear()
        self._by_remote.clear()
        self._by_name.clear()
        self._free.clear()
