"""What comes before the first AMQP frame: protocol headers and SASL (AMQP 1.0 parts 2.2 and 5.3)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, Literal

from renewer.amqp.frames import AMQP_HEADER, SASL_HEADER, FrameType, encode_frame
from renewer.amqp.performatives import (
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    decode_performative,
    encode_performative,
)
from renewer.amqp.sasl import SASL_OK, SaslClient, SaslServer
from renewer.errors import AmqpProtocolError

if TYPE_CHECKING:
    from renewer.amqp.frames import Frame
    from renewer.amqp.performatives import Performative


class SaslRefusedError(AmqpProtocolError):
    """There is no way in: no common mechanism, or wrong credentials."""

    def __init__(self, message: str) -> None:
        super().__init__(message, condition="amqp:unauthorized-access")


class Stage(Enum):
    """What the peer must send next."""

    SASL_HEADER = "sasl header"
    SASL_FRAME = "sasl frame"
    AMQP_HEADER = "amqp header"
    DONE = "done"


class Greeting:
    """Headers and SASL frames of one side. What it has to say it appends to `output`."""

    def __init__(
        self,
        role: Literal["client", "server"],
        sasl: SaslClient | SaslServer | None,
        hostname: str | None,
        output: bytearray,
    ) -> None:
        self.stage = Stage.AMQP_HEADER if sasl is None else Stage.SASL_HEADER
        self.amqp_header_sent = False
        """From then on we may open."""
        self._is_server: Final = role == "server"
        self._sasl: Final = sasl
        self._hostname: Final = hostname
        self._output: Final = output
        if role == "client":
            self._send_header(AMQP_HEADER if sasl is None else SASL_HEADER)

    def on_header(self, header: bytes) -> None:
        """The peer's protocol header."""
        if self.stage is Stage.SASL_HEADER and header == SASL_HEADER:
            if isinstance(self._sasl, SaslServer):
                self._send_header(SASL_HEADER)
                self._send_sasl(SaslMechanisms(list(self._sasl.mechanisms)))
            self.stage = Stage.SASL_FRAME
        elif header == AMQP_HEADER and (self.stage is Stage.AMQP_HEADER or self._sasl_is_optional):
            if not self.amqp_header_sent:
                self._send_header(AMQP_HEADER)
            self.stage = Stage.DONE
        else:
            if self._is_server:  # Part 2.2: say what would have been right, and close.
                self._send_header(AMQP_HEADER if self.stage is Stage.AMQP_HEADER else SASL_HEADER)
            raise AmqpProtocolError(
                f"the peer speaks protocol {header[4]}-{header[5]}.{header[6]}.{header[7]}, not what was expected",
                condition="amqp:connection:framing-error",
            )

    def on_frame(self, frame: Frame) -> None:
        """A SASL frame."""
        performative, _ = decode_performative(frame.body) if frame.type is FrameType.SASL else (None, 0)
        match self._sasl, performative:
            case SaslServer() as server, SaslInit():
                code = server.outcome(performative)
                self._send_sasl(SaslOutcome(code))
                if code != SASL_OK:
                    raise SaslRefusedError("the peer's credentials were refused")
                self.stage = Stage.AMQP_HEADER
            case client, SaslMechanisms() if isinstance(client, SaslClient):
                if client.mechanism not in performative.sasl_server_mechanisms:
                    offered = ", ".join(performative.sasl_server_mechanisms)
                    raise SaslRefusedError(f"the peer offers {offered}, not {client.mechanism}")
                self._send_sasl(SaslInit(client.mechanism, client.initial_response(), self._hostname))
            case client, SaslOutcome() if isinstance(client, SaslClient):
                if performative.code != SASL_OK:
                    raise SaslRefusedError(f"the peer refused {client.mechanism} with code {performative.code}")
                self.stage = Stage.AMQP_HEADER
                self._send_header(AMQP_HEADER)
            case _:
                raise AmqpProtocolError(
                    "something else than the SASL frame expected", condition="amqp:connection:framing-error"
                )

    @property
    def awaits_header(self) -> bool:
        """Whether a protocol header comes next, not a frame."""
        return self.stage in (Stage.SASL_HEADER, Stage.AMQP_HEADER)

    @property
    def is_done(self) -> bool:
        """AMQP frames come next."""
        return self.stage is Stage.DONE

    @property
    def _sasl_is_optional(self) -> bool:
        return self.stage is Stage.SASL_HEADER and isinstance(self._sasl, SaslServer) and not self._sasl.required

    def _send_header(self, header: bytes) -> None:
        self._output.extend(header)
        if header == AMQP_HEADER:
            self.amqp_header_sent = True

    def _send_sasl(self, performative: Performative) -> None:
        self._output.extend(encode_frame(0, encode_performative(performative), FrameType.SASL))
