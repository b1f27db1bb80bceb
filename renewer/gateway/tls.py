"""TLS without I/O, small enough that a thousand connections may have it: what OpenSSL keeps, and hardly more.

asyncio's own TLS keeps a buffer of 256 KiB for each connection. Here what is read and what becomes of it lies in pads
that all connections share, for nothing stays in them from one turn of the event loop to the next.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final, cast

from renewer.errors import UsageError

READ_SIZE: Final = 256 * 1024
"""How much is read from a socket at a time."""

_RECORD: Final = 16 * 1024
"""Bytes of plain text in a TLS record at most (RFC 8446 5.1)."""

_SLICE: Final = 4 * 1024
"""Bytes that OpenSSL is given at a time: its memory grows to that and a third, and stays so."""

_OUR_RECORD: Final = 8 * 1024
"""Bytes of plain text in a record of ours, for the same reason."""


class Scratch:
    """Where bytes lie for the length of one call; shared by all connections of one event loop."""

    __slots__ = ("pad", "plain", "raw")

    def __init__(self) -> None:
        self.pad = bytearray(READ_SIZE)
        self.raw = memoryview(self.pad)
        # What is read can complete a record that had begun before.
        self.plain = memoryview(bytearray(READ_SIZE + 4 * _RECORD))


class Tls:
    """One side of a TLS connection; every method may raise ssl.SSLError, after which `take` has the alert to send."""

    __slots__ = ("_incoming", "_object", "_outgoing", "_scratch", "has_ended", "is_open")

    def __init__(self, context: ssl.SSLContext, scratch: Scratch, *, server_hostname: str | None = None) -> None:
        """The server's side without `server_hostname`, the client's with it."""
        self._scratch = scratch
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_hostname is None, server_hostname=server_hostname
        )
        self.is_open = False
        """Whether the handshake is done."""
        self.has_ended = False
        """Whether the other side has said that it sends no more."""

    def begin(self) -> None:
        """Have the first bytes of the handshake ready in `take`."""
        self._shake_hands()

    def receive(self, count: int) -> bytearray:
        """The plain text that came with the first `count` bytes of the raw pad."""
        raw, plain, incoming = self._scratch.raw, self._scratch.plain, self._incoming
        at = filled = 0
        while at < count:
            at += incoming.write(raw[at : min(at + _SLICE, count)])
            if not self.is_open and not self._shake_hands():
                continue
            # Only a record that is not complete yet makes OpenSSL ask for more, which costs an exception.
            while incoming.pending:
                try:
                    # With a buffer it is the number of bytes that is returned.
                    read = cast("int", self._object.read(_RECORD, plain[filled : filled + _RECORD]))
                except ssl.SSLWantReadError:
                    break
                if not read:
                    self.has_ended = True
                    return bytearray(plain[:filled])
                filled += read
        return bytearray(plain[:filled])

    def encrypt(self, data: bytes | bytearray) -> bytes:
        """The records to send for this plain text."""
        write, outgoing = self._object.write, self._outgoing
        if len(data) <= _OUR_RECORD:
            write(data)
            return outgoing.read()
        view = memoryview(data)
        records = []
        for at in range(0, len(data), _OUR_RECORD):
            write(view[at : at + _OUR_RECORD])
            records.append(outgoing.read())
        return b"".join(records)

    def take(self) -> bytes:
        """What OpenSSL itself has to say: handshake, alerts, answers to new keys. Empty as a rule."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def farewell(self) -> bytes:
        """What says that no more will come from here (RFC 8446 6.1)."""
        if self.is_open:
            with suppress(ssl.SSLError):  # The answer is not waited for.
                self._object.unwrap()
        return self.take()

    def _shake_hands(self) -> bool:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.is_open = True
        return True


def server_context(cert_file: str, key_file: str | None) -> ssl.SSLContext:
    """TLS for workers that connect. UsageError if the certificate or its key cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A peer could have us compute keys all day.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Workers connect rarely and stay: tickets would be made and sent for nothing.
    context.num_tickets = 0
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except OSError as error:
        files = cert_file if key_file is None else f"{cert_file}, {key_file}"
        raise UsageError(
            f"tls_cert_file, tls_key_file ({files}): {error}; name a PEM certificate and its key, without a password"
        ) from error
    return context


def _no_password() -> str:
    # Without this OpenSSL would ask at the terminal.
    return ""
