"""Server-sent events out of bytes (the HTML standard's "event stream interpretation"). No I/O, bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from renewer.client.errors import ProtocolError

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ServerSent:
    """One event as it was sent. `id` is "" where none was given."""

    type: str
    data: str
    id: str = ""


class EventParser:
    """Turns chunks into events; comments are dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False
        self._size = 0
        self._type = ""
        self._id = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerSent]:
        """The events that `chunk` completes. Raises `ProtocolError` for one that is too long."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r")
        lines = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop()
        found = []
        for line in lines:
            event = self._line(line)
            if event is not None:
                found.append(event)
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            raise ProtocolError(f"an event of more than {MAX_EVENT_BYTES} bytes was sent")
        return found

    def _line(self, line: bytes) -> ServerSent | None:
        if not line:
            event = ServerSent(self._type or "message", "\n".join(self._data), self._id) if self._data else None
            self._type, self._id, self._data, self._size = "", "", [], 0
            return event
        name, _, raw = line.partition(b":")
        value = raw.removeprefix(b" ").decode("utf-8", "replace")
        match name:
            case b"event":
                self._type = value
            case b"data":
                self._data.append(value)
                self._size += len(raw) + 1
            case b"id" if "\0" not in value:
                self._id = value
            case _:
                pass  # comments, and fields that the standard says to ignore
        return None
