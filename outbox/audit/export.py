"""Records as JSON Lines: what an export writes, and a file of them as a chain."""

from __future__ import annotations

from functools import cached_property
from itertools import chain as chained
from itertools import islice
from typing import TYPE_CHECKING, Final

import orjson

from outbox.audit.chain import Head
from outbox.audit.record import Record, from_json, of_members, to_json
from outbox.errors import ConfigurationError
from outbox.jsontext import read_strictly

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PAGE: Final = 5_000


def line(record: Record) -> bytes:
    """Return a record as one line of JSON Lines: its canonical form and its hash."""
    return orjson.dumps(to_json(record)) + b"\n"


def read_line(text: bytes) -> Record:
    """Read a line that `line` wrote, or another program wrote anew; raises `ValueError`."""
    record = of_members(orjson.loads(text))
    if line(record) == text:
        return record
    # Nothing may stand there that the record does not say, and nothing twice.
    return from_json(read_strictly(text))


class FileChain:
    """An export as a `Chain`: read from its beginning each time, and never kept in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def start(self) -> Head:
        """See `Chain.start`; what stood before it is not in the file.

        Raises `ConfigurationError` where there is no record, which nothing could be told of.
        """
        first = next(self._records(), None)
        if first is None:
            raise ConfigurationError(
                f"{self._path} holds no record: an export of any has one a line"
            )
        return Head(first.position - 1, first.previous_hash)

    def pages(self, after: int | None) -> Iterator[Sequence[Record]]:
        """See `Chain.pages`; in the order of the lines."""
        records = self._records()
        if after is not None:
            behind = next((each for each in records if each.position > after), None)
            records = chained([] if behind is None else [behind], records)
        while page := list(islice(records, PAGE)):
            yield page

    def followers(self, previous_hash: bytes) -> Sequence[Record]:
        """See `Chain.followers`."""
        return [record for record in self._records() if record.previous_hash == previous_hash]

    def last_position(self) -> int:
        """See `Chain.last_position`."""
        return max((record.position for record in self._records()), default=0)

    def size(self) -> int:
        """See `Chain.size`."""
        return sum(1 for _ in self._records())

    def head_at(self, position: int) -> Head | None:
        """See `Chain.head_at`."""
        if position == self.start.position:
            return self.start
        found = (record for record in self._records() if record.position == position)
        record = next(found, None)
        return None if record is None else Head(record.position, record.hash)

    def _records(self) -> Iterator[Record]:
        try:
            with self._path.open("rb") as lines:
                for number, text in enumerate(lines, 1):
                    try:
                        yield read_line(text)
                    except (ValueError, TypeError) as exc:
                        raise ConfigurationError(
                            f"line {number} of {self._path} is no record of an export: {exc}"
                        ) from exc
        except OSError as exc:
            raise ConfigurationError(f"cannot read {self._path}: {exc.strerror}") from exc
