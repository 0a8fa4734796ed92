"""How large a record is in the log of Kafka (record batches of version 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_BATCH_HEADER: Final = 61
_SURELY_ENOUGH: Final = 200
"""More than the framing of a record without its headers."""
_PER_HEADER: Final = 10
"""More than the framing of a header."""


def is_too_large(
    limit: float, key: bytes | None, data: bytes, headers: Sequence[tuple[str, bytes]]
) -> bool:
    """Say whether an uncompressed record, alone in its batch, is over the limit of its topic."""
    rough = len(data) + (len(key) if key else 0) + _SURELY_ENOUGH + len(headers) * _PER_HEADER
    for name, value in headers:
        # A letter of a name takes four bytes at most.
        rough += 4 * len(name) + len(value)
    return rough > limit and _exact(key, data, headers) > limit


def _exact(key: bytes | None, data: bytes, headers: Sequence[tuple[str, bytes]]) -> int:
    # Attributes, time and offset take a byte each: the first of its batch differs from nothing.
    size = 3 + _field(key) + _field(data) + _varint(len(headers))
    size += sum(_field(name.encode()) + _field(value) for name, value in headers)
    return _BATCH_HEADER + _varint(size) + size


def _field(value: bytes | None) -> int:
    return 1 if value is None else _varint(len(value)) + len(value)


def _varint(number: int) -> int:
    zigzag = number << 1
    return max(1, -(-zigzag.bit_length() // 7))
