"""The same AMQP in other bytes: every value in its widest form, as another broker might write it.

AMQP 1.0 part 1.6 gives many values several encodings, and a peer may choose any. `widened` turns the frames of one side
of a connection into those of a peer that always takes the longest.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from renewer.amqp import Frame, FrameReader, Transfer, decode_performative, encode_frame

_EMPTY = {0x43: b"\x70" + bytes(4), 0x44: b"\x80" + bytes(8), 0x41: b"\x56\x01", 0x42: b"\x56\x00"}
_INTEGERS = {0x52: (">B", 0x70, ">I"), 0x53: (">B", 0x80, ">Q"), 0x54: (">b", 0x71, ">i"), 0x55: (">b", 0x81, ">q")}
_SHORT = {0xA0: 0xB0, 0xA1: 0xB1, 0xA3: 0xB3}
_LONG = {0xB0, 0xB1, 0xB3}
_COMPOUND = {0xC0: 0xD0, 0xC1: 0xD1, 0xD0: 0xD0, 0xD1: 0xD1}
_ARRAYS = {0xE0: (">BB", 2), 0xF0: (">II", 8)}


def widen(data: bytes, at: int = 0) -> tuple[bytes, int]:
    """The value at that place in its widest form, and where it ends."""
    code = data[at]
    at += 1
    if code == 0x00:
        descriptor, at = widen(data, at)
        value, at = widen(data, at)
        return b"\x00" + descriptor + value, at
    if code in _EMPTY:
        return _EMPTY[code], at
    if code == 0x45:
        return b"\xd0" + struct.pack(">II", 4, 0), at
    if code in _INTEGERS:
        narrow, wide_code, wide = _INTEGERS[code]
        (number,) = struct.unpack_from(narrow, data, at)
        return bytes([wide_code]) + struct.pack(wide, number), at + 1
    if code in _SHORT:
        size = data[at]
        return bytes([_SHORT[code]]) + struct.pack(">I", size) + data[at + 1 : at + 1 + size], at + 1 + size
    if code in _LONG:
        (size,) = struct.unpack_from(">I", data, at)
        return data[at - 1 : at + 4 + size], at + 4 + size
    if code in _COMPOUND:
        return _widen_compound(code, data, at)
    if code in _ARRAYS:
        form, _ = _ARRAYS[code]
        size, count = struct.unpack_from(form, data, at)
        half = struct.calcsize(form) // 2
        rest = data[at + 2 * half : at + half + size]
        return b"\xf0" + struct.pack(">II", len(rest) + 4, count) + rest, at + half + size
    width = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}[code >> 4]
    return data[at - 1 : at + width], at + width


def _widen_compound(code: int, data: bytes, at: int) -> tuple[bytes, int]:
    form = ">BB" if code < 0xD0 else ">II"
    size, count = struct.unpack_from(form, data, at)
    end = at + struct.calcsize(form) // 2 + size
    at += struct.calcsize(form)
    items = []
    for _ in range(count):
        item, at = widen(data, at)
        items.append(item)
    if code in {0xC0, 0xD0}:  # What is null at the end may be left out.
        while items and items[-1] == b"\x40":
            items.pop()
    body = b"".join(items)
    return bytes([_COMPOUND[code]]) + struct.pack(">II", len(body) + 4, len(items)) + body, end


class Widener:
    """Frames in, wider frames out. Messages in several frames keep their own encoding."""

    def __init__(self) -> None:
        self._frames = FrameReader(1 << 24)
        self._unfinished: set[tuple[int, int]] = set()
        self._headers = True

    def feed(self, data: bytes) -> bytes:
        self._frames.feed(data)
        out = []
        while True:
            if self._headers:
                header = self._frames.take_header()
                if header is None:
                    break
                out.append(header)
                self._headers = False
            frame = self._frames.next_frame()
            if frame is None:
                break
            out.append(self._widened(frame))
            if frame.type == 1 and frame.body[:3] == b"\x00\x53\x44":  # The outcome: AMQP's own header follows.
                self._headers = True
        return b"".join(out)

    def _widened(self, frame: Frame) -> bytes:
        if not frame.body:
            # An extended header, which AMQP 1.0 part 2.3.1 says to ignore.
            return b"\x00\x00\x00\x0c\x03" + bytes([frame.type]) + struct.pack(">H", frame.channel) + b"\0\0\0\0"
        performative, size = decode_performative(frame.body)
        wide, _ = widen(frame.body)
        payload = frame.body[size:]
        if isinstance(performative, Transfer):
            link = (frame.channel, performative.handle)
            if link not in self._unfinished and not performative.more:
                payload = self._sections(payload)
            (self._unfinished.add if performative.more else self._unfinished.discard)(link)
        return encode_frame(frame.channel, wide + payload, frame.type)

    def _sections(self, payload: bytes) -> bytes:
        sections, at = [], 0
        while at < len(payload):
            section, at = widen(payload, at)
            sections.append(section)
        return b"".join(sections)


class WideProxy:
    """Stands before a broker; what the broker says arrives in its widest form."""

    def __init__(self, port: int) -> None:
        self._broker = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                broker = socket.create_connection(("127.0.0.1", self._broker))
                for one in (client, broker):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._sockets.append(one)
                threading.Thread(target=self._pass, args=[client, broker, None], daemon=True).start()
                threading.Thread(target=self._pass, args=[broker, client, Widener()], daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, widener: Widener | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data if widener is None else widener.feed(data))
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def wide_proxy(port: int) -> Iterator[WideProxy]:
    proxy = WideProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
