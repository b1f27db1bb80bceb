"""Arithmetic on ids that wrap around at 2^32 (RFC 1982, AMQP 1.0 part 2.8.8)."""

from __future__ import annotations

from typing import Final

_SPACE: Final = 1 << 32
FURTHEST: Final = (1 << 31) - 1
"""How far ahead an id can be told from one that is behind. Peers may allow more than that; it means no limit."""


def serial_add(value: int, count: int) -> int:
    """`value` moved on by `count`."""
    return (value + count) % _SPACE


def serial_distance(start: int, end: int) -> int:
    """How far `end` is after `start`; negative if it is before."""
    distance = (end - start) % _SPACE
    return distance - _SPACE if distance >= _SPACE // 2 else distance
