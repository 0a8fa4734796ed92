"""Events as rows of bytes, the way a relay moves thousands a page; envelopes only where asked for.

A relay that forwards an event needs its columns, not an object with their meaning: to make an
envelope of a row costs more than to send it. So a page is a sequence of envelopes that are made
when something looks at them, and a transport that can send rows as they are takes `rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Final, overload

import orjson

from outbox.codec import EXTENSIONS, stored_headers, time_text
from outbox.envelope import Draft, Envelope
from outbox.jsontext import read_object

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

Row = tuple[
    int,
    bytes,
    bytes,
    bytes,
    int,
    bytes | None,
    bytes | None,
    bytes | None,
    bytes,
    bytes,
    bytes,
    bytes | None,
]
"""The columns of one event, text in UTF-8, in the order of `codec.ROW_COLUMNS`.

Its time is UTC as a JSON string, `"2026-01-31T12:00:00.123456"`, the cheapest form that a database
makes; its headers are the JSON object of the `headers` column, or None where that is empty.
"""

SEQ: Final = 0
ID: Final = 1
SOURCE: Final = 2
TYPE: Final = 3
VERSION: Final = 4
SUBJECT: Final = 5
KEY: Final = 6
TOPIC: Final = 7
TIME: Final = 8
CONTENT_TYPE: Final = 9
DATA: Final = 10
HEADERS: Final = 11

_type_of: Final = itemgetter(TYPE)
_key_of: Final = itemgetter(KEY)
_data_of: Final = itemgetter(DATA)


class Rows(Sequence[Envelope]):
    """Events in order; immutable."""

    __slots__ = ("rows",)

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self.rows = rows

    @classmethod
    def of(cls, envelopes: Iterable[Envelope]) -> Rows:
        """Return events as rows; those that are rows already as they are."""
        if isinstance(envelopes, Rows):
            return envelopes
        return cls([to_row(envelope) for envelope in envelopes])

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Envelope: ...

    @overload
    def __getitem__(self, index: slice) -> Rows: ...

    def __getitem__(self, index: int | slice) -> Envelope | Rows:
        if isinstance(index, slice):
            return Rows(self.rows[index])
        return to_envelope(self.rows[index])

    def pick(self, indexes: Sequence[int]) -> Rows:
        """Return the events at these places."""
        if len(indexes) == len(self.rows):
            return self
        rows = self.rows
        return Rows([rows[index] for index in indexes])

    def types(self) -> list[bytes]:
        """Return the type of each event."""
        return list(map(_type_of, self.rows))

    def keys(self) -> list[bytes | None]:
        """Return the partition key of each event."""
        return list(map(_key_of, self.rows))

    def any_key_in(self, keys: AbstractSet[bytes]) -> bool:
        """Tell whether an event has one of these partition keys."""
        return not keys.isdisjoint(map(_key_of, self.rows))

    def data_size(self) -> int:
        """Return the bytes of data of all of them."""
        return sum(map(len, map(_data_of, self.rows)))


def to_row(envelope: Envelope) -> Row:
    """Write an envelope as a row; without a sequence it has the number 0."""
    headers = stored_headers(envelope)
    return (
        envelope.sequence or 0,
        envelope.id.encode(),
        (envelope.source or "").encode(),
        envelope.type.encode(),
        envelope.version,
        _encoded(envelope.subject),
        _encoded(envelope.partition_key),
        _encoded(envelope.topic),
        b'"%b"' % time_text(envelope.time)[:-1].encode(),
        envelope.content_type.encode(),
        envelope.data,
        orjson.dumps(headers) if headers else None,
    )


def to_envelope(row: Row) -> Envelope:
    """Make the envelope of a row, equal to what `codec.from_row` makes of the same columns."""
    own = texts(row[HEADERS])
    draft = Draft()
    draft.id = row[ID].decode()
    draft.source = row[SOURCE].decode()
    draft.type = row[TYPE].decode()
    draft.time = datetime.fromisoformat(time_of(row[TIME]).decode())
    draft.data = row[DATA]
    draft.version = row[VERSION]
    draft.content_type = row[CONTENT_TYPE].decode()
    draft.subject = _decoded(row[SUBJECT])
    draft.partition_key = _decoded(row[KEY])
    draft.topic = _decoded(row[TOPIC])
    for name, field in EXTENSIONS.items():
        setattr(draft, field, own.pop(name, None))
    draft.headers = own
    draft.sequence = row[SEQ] or None
    return draft.finish()


def time_of(moment: bytes) -> bytes:
    """Return the time of a row as RFC 3339."""
    return moment[1:-1] + b"Z"


def texts(headers: bytes | None) -> dict[str, str]:
    """Read a `headers` column; a producer that writes plain SQL may store any JSON in it.

    What is no text becomes its JSON, and null is left out.
    """
    if headers is None:
        return {}
    return {
        name: value if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in read_object(headers).items()
        if value is not None
    }


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _decoded(text: bytes | None) -> str | None:
    return None if text is None else text.decode()
