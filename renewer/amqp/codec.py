"""AMQP values to bytes and back (AMQP 1.0 part 1): `decode(encode(value))` gives `value`, with its type."""

from renewer.amqp.decoder import decode
from renewer.amqp.encoder import encode, encode_into

__all__ = ["decode", "encode", "encode_into"]
