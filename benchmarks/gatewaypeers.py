"""`python -m benchmarks.gatewaypeers [CERTIFICATE]`: a broker that blasts, for what the gateway can do at most.

It grants every token and every link, and sends messages of 1 KB as fast as window and credit allow, encoded beforehand:
only ids are written into them. It says on which port it listens; with a certificate it does so inside TLS.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import sys
import time
from dataclasses import dataclass
from typing import Final

from renewer.amqp import (
    EMPTY_FRAME,
    SASL_HEADER,
    Attach,
    Begin,
    Close,
    Data,
    Detach,
    End,
    Flow,
    FrameReader,
    FrameType,
    Int,
    Long,
    Message,
    MessageProperties,
    Open,
    Performative,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Source,
    Symbol,
    Timestamp,
    Transfer,
    Value,
    decode_performative,
    encode_frame,
    encode_performative,
)

WINDOW: Final = 65536
BODY: Final = 1024
AT_ONCE: Final = 64
_ID: Final = 0x7E7E7E7E
_TAG: Final = bytes(range(0x90, 0xA0))


@dataclass
class Blast:
    """A link to whom messages are sent; `credit` is what it still takes."""

    channel: int
    template: bytearray
    ids: list[int]
    tags: list[int]
    credit: int = 0

    @property
    def size(self) -> int:
        return len(self.template) // AT_ONCE


def blast_for(channel: int, handle: int, *, settled: bool) -> Blast:
    """So many messages at once, ready to be sent but for their ids."""
    annotations: dict[object, object] = {
        Symbol("x-opt-sequence-number"): Long(1 << 40),
        Symbol("x-opt-enqueued-time"): Timestamp(1_800_000_000_000),
    }
    if not settled:
        annotations[Symbol("x-opt-locked-until")] = Timestamp(int(1000 * (time.time() + 60)))
    message = Message(Data((b"x" * BODY,)), MessageProperties(message_id="m"), message_annotations=annotations)
    transfer = encode_performative(Transfer(handle, _ID, _TAG, 0, settled))
    one = encode_frame(channel, transfer + message.encode())
    id_at, tag_at = one.index(struct.pack(">I", _ID)), one.index(_TAG)
    starts = range(0, AT_ONCE * len(one), len(one))
    return Blast(channel, bytearray(one * AT_ONCE), [id_at + at for at in starts], [tag_at + at for at in starts])


class Broker(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.frames = FrameReader(1 << 20)
        self.greeted = False
        self.next_id: dict[int, int] = {}
        self.window: dict[int, int] = {}
        self.replies: dict[int, int] = {}
        self.blasts: dict[tuple[int, int], Blast] = {}
        self.paused = self.is_blasting = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.timer = asyncio.get_running_loop().call_later(10, self.keep_alive)

    def connection_lost(self, _: Exception | None) -> None:
        self.timer.cancel()
        self.blasts.clear()

    def keep_alive(self) -> None:
        self.transport.write(EMPTY_FRAME)
        self.timer = asyncio.get_running_loop().call_later(10, self.keep_alive)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.pump()

    def data_received(self, data: bytes) -> None:
        self.frames.feed(data)
        while True:
            if not self.greeted:
                header = self.frames.take_header()
                if header is None:
                    return
                self.greeted = True
                self.transport.write(header)
                if header == SASL_HEADER:
                    self.say_sasl(SaslMechanisms([Symbol("ANONYMOUS")]))
            frame = self.frames.next_frame()
            if frame is None:
                return
            if frame.body:
                performative, size = decode_performative(frame.body)
                self.on(frame.channel, performative, frame.body[size:])

    def on(self, channel: int, performative: Performative, payload: bytes) -> None:
        match performative:
            case SaslInit():
                self.say_sasl(SaslOutcome(0))
                self.greeted = False
            case Open():
                self.say(Open("blast", max_frame_size=65536, channel_max=255, idle_time_out=120_000))
            case Begin():
                self.next_id[channel], self.window[channel] = 0, performative.incoming_window
                self.say(Begin(channel, 0, WINDOW, WINDOW, handle_max=255), channel)
            case Attach():
                self.attach(channel, performative)
            case Flow():
                self.flow(channel, performative)
            case Transfer():
                self.answer(channel, payload)
            case Detach():
                self.blasts.pop((channel, performative.handle), None)
                self.say(Detach(performative.handle, True), channel)
            case End():
                self.say(End(), channel)
            case Close():
                self.say(Close())
                self.transport.close()
            case _:
                pass

    def attach(self, channel: int, asked: Attach) -> None:
        count = 0 if asked.role else None
        reply = Attach(
            asked.name,
            asked.handle,
            not asked.role,
            snd_settle_mode=asked.snd_settle_mode,
            rcv_settle_mode=asked.rcv_settle_mode,
            source=asked.source,
            target=asked.target,
            initial_delivery_count=count,
            max_message_size=1 << 20,
        )
        self.say(reply, channel)
        if not asked.role:
            self.say(Flow(0, WINDOW, self.next_id[channel], WINDOW, asked.handle, 0, 10_000), channel)
        elif isinstance(asked.source, Source) and asked.source.address == "$cbs":
            self.replies[channel] = asked.handle
        else:
            settled = asked.snd_settle_mode == 1
            self.blasts[channel, asked.handle] = blast_for(channel, asked.handle, settled=settled)

    def flow(self, channel: int, flow: Flow) -> None:
        first = flow.next_incoming_id or 0
        self.window[channel] = first + flow.incoming_window - self.next_id[channel]
        blast = self.blasts.get((channel, flow.handle)) if flow.handle is not None else None
        if blast is not None and flow.link_credit:
            blast.credit = max(blast.credit, flow.link_credit)
        self.pump()

    def answer(self, channel: int, payload: bytes) -> None:
        if not payload:
            return
        request = Message.decode(payload)
        correlation = None if request.properties is None else request.properties.message_id
        status = {"status-code": Int(202), "status-description": "Accepted"}
        reply = Message(Value(None), MessageProperties(correlation_id=correlation), status)
        number = self.next_id[channel]
        transfer = Transfer(self.replies[channel], number, number.to_bytes(4, "big"), 0, True)
        self.next_id[channel] += 1
        self.window[channel] -= 1
        self.transport.write(encode_frame(channel, encode_performative(transfer) + reply.encode()))

    def pump(self) -> None:
        if not self.is_blasting:
            self.is_blasting = True
            asyncio.get_running_loop().call_soon(self.blast)

    def blast(self) -> None:
        self.is_blasting = False
        for blast in self.blasts.values():
            number = min(blast.credit, self.window[blast.channel], AT_ONCE)
            if number <= 0 or self.paused:
                continue
            first, template, pack = self.next_id[blast.channel], blast.template, struct.Struct(">I").pack_into
            for offset in range(number):
                pack(template, blast.ids[offset], first + offset)
                pack(template, blast.tags[offset], first + offset)
            self.transport.write(bytes(template[: number * blast.size]))
            blast.credit -= number
            self.window[blast.channel] -= number
            self.next_id[blast.channel] += number
            self.pump()

    def say(self, performative: Performative, channel: int = 0) -> None:
        self.transport.write(encode_frame(channel, encode_performative(performative)))

    def say_sasl(self, performative: Performative) -> None:
        self.transport.write(encode_frame(0, encode_performative(performative), FrameType.SASL))


async def main() -> None:
    context = None
    if len(sys.argv) > 1:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[1])
    server = await asyncio.get_running_loop().create_server(Broker, "127.0.0.1", 0, ssl=context, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
