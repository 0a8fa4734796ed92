"""The rows of a page, and the envelopes that they become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from outbox.codec import ROW_COLUMNS, from_row

if TYPE_CHECKING:
    from outbox.envelope import Envelope

SEQ: Final = 0
TRANSACTION_ID: Final = 12
STATE: Final = 13


def to_envelopes(rows: list[tuple[Any, ...]]) -> list[Envelope]:
    """Make the envelope of each row."""
    return [from_row(*row[: len(ROW_COLUMNS)]) for row in rows]
