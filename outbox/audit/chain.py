"""The chain of records: how it grows, how it is walked, and what it means where it breaks.

A record names the hash of the one before it, so whoever alters one has to compute every later one
anew; and whoever does that is found by what stands elsewhere: an anchor, which is a position and
its hash, from a seal or from what was verified before.

Everything here is arithmetic over pages of records that a `Chain` hands out.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

from outbox.audit.record import GENESIS, Record, canonical, hash_of, is_intact, of_row
from outbox.errors import OutboxError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from outbox.rows import Row


LAST_POSITION: Final = 2**63 - 1
"""The largest position that a database can have."""


class Head(NamedTuple):
    """The last record of a chain, or of the part of it that was looked at."""

    position: int
    hash: bytes


START: Final = Head(0, GENESIS)
"""The head of a chain without records."""


class Anchor(NamedTuple):
    """What is known of a record from elsewhere."""

    head: Head
    origin: str
    """For people, for instance `seal 3`."""


Kind = Literal["changed", "removed", "inserted", "reordered", "truncated", "rewritten"]
"""What was done to a chain; `rewritten` is records that agree with each other, but not with what
was sealed or verified before."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The first record at which a chain is not what it was."""

    kind: Kind
    position: int
    """Of the record; where some are missing, or were rewritten, of the first of them."""
    event_id: str | None
    """None where the record is gone."""
    reason: str
    """A sentence without its subject, for people."""
    last_position: int | None = None
    """Where several are missing or rewritten, the last of them as far as that is known."""

    def __str__(self) -> str:
        where = f"position {self.position:,}"
        if self.last_position is not None and self.last_position != self.position:
            where = f"positions {self.position:,} to {self.last_position:,}"
        event = "" if self.event_id is None else f" (event {self.event_id})"
        return f"{where}{event}: {self.kind}: {self.reason}"


class ChainBrokenError(OutboxError):
    """The chain is not what it was."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(f"the audit trail is broken at {finding}")
        self.finding = finding


class Chain(Protocol):
    """A place where records are read from."""

    @property
    def start(self) -> Head:
        """Return what its first record follows; of a part of a trail that is no `START`."""
        ...

    def pages(self, after: int | None) -> Iterator[Sequence[Record]]:
        """Yield all records behind a position, or all there are, by their positions."""
        ...

    def followers(self, previous_hash: bytes) -> Sequence[Record]:
        """Return the records that name this hash as that of the one before them."""
        ...

    def last_position(self) -> int:
        """Return the largest position, 0 where there is none."""
        ...

    def size(self) -> int:
        """Return how many records there are."""
        ...

    def head_at(self, position: int) -> Head | None:
        """Return a record's position and hash as they stand there, or `start`; None without."""
        ...


def extend(head: Head, rows: Iterable[Row]) -> list[Record]:
    """Make the records of events that follow a head."""
    position, previous = head
    records: list[Record] = []
    for row in rows:
        position += 1
        record = of_row(row, position, previous)
        previous = record.hash
        records.append(record)
    return records


def verified(
    chain: Chain,
    start: Head | None = None,
    anchors: Iterable[Anchor] = (),
    last_position: int | None = None,
) -> Iterator[Sequence[Record]]:
    """Yield the records behind a head in pages, each after it was verified.

    `start`, by default that of the chain, is trusted. What lies behind `last_position` is not
    looked at, and the chain has to reach so far. Raises `ChainBrokenError` with the first record
    that is not what it was. Memory does not grow with the chain.
    """
    start = start or chain.start
    waiting = _waiting(anchors, start, last_position)
    known = start.position
    before: Record | None = None
    last: Record | None = None
    position, previous = start
    for page in _pages(chain, start, last_position):
        for record in page:
            is_next = record.position == position + 1 and record.previous_hash == previous
            if not is_next or hash_of(record) != record.hash:
                earlier = Head(before.position, before.hash) if before else start
                head = Head(position, previous)
                raise ChainBrokenError(_diagnose(chain, head, earlier, last, record))
            before, last = last, record
            position += 1
            previous = record.hash
        while waiting and waiting[-1].head.position <= position:
            anchor = waiting.pop()
            if page[anchor.head.position - page[0].position].hash != anchor.head.hash:
                raise ChainBrokenError(_rewritten(known, anchor))
            known = anchor.head.position
        yield page
    if waiting:
        anchor = waiting[0]
        raise ChainBrokenError(_truncated(position, anchor.head.position, anchor.origin, known))
    if last_position is not None and position < last_position:
        raise ChainBrokenError(_truncated(position, last_position, "whoever asks", position))


def _waiting(anchors: Iterable[Anchor], start: Head, last_position: int | None) -> list[Anchor]:
    """Return the anchors on the way, last one first; raises where one differs from `start`."""
    waiting: list[Anchor] = []
    for anchor in sorted(anchors, reverse=True):
        if anchor.head.position == start.position and anchor.head != start:
            raise ChainBrokenError(_rewritten(start.position - 1, anchor))
        is_behind = last_position is not None and anchor.head.position > last_position
        if anchor.head.position > start.position and not is_behind:
            waiting.append(anchor)
    return waiting


def _pages(chain: Chain, start: Head, last_position: int | None) -> Iterator[Sequence[Record]]:
    """Yield what lies behind a head, no more than there can be up to a position."""
    left = None if last_position is None else max(last_position - start.position, 0)
    for page in chain.pages(None if start == chain.start else start.position):
        if left == 0:
            return
        cut = page[:left]
        left = None if left is None else left - len(cut)
        yield cut


def starting_at(chain: Chain, start: Head, anchors: Iterable[Anchor]) -> Head:
    """Return where to begin: at a head that was verified before, if nothing before it has changed.

    Of what lies before `start` only the anchors are looked at, by a record each. Where one is not
    as it was, or where `start` itself is not, all has to be walked: the start of the chain.

    What lies before the chain's own start cannot be looked at. Where `start` does, it stays: the
    walk then finds out what is missing in between.
    """
    first = chain.start.position
    heads = [start, *(anchor.head for anchor in anchors if anchor.head.position < start.position)]
    is_there = all(chain.head_at(head.position) == head for head in heads if head.position >= first)
    return start if is_there else chain.start


def _diagnose(
    chain: Chain, head: Head, before_last: Head, last: Record | None, found: Record
) -> Finding:
    """Say what was done where `found` does not follow `head`, which is that of `last`."""
    expected = head.position + 1
    if found.position < expected:
        reason = f"a record where none can be, behind position {head.position:,}"
        return _finding("inserted", found, reason)
    moved = next(
        (
            record
            for record in chain.followers(head.hash)
            if (record.position != expected or found.position > expected)
            and _belongs_at(record, expected)
        ),
        None,
    )
    if found.position > expected:
        return _gap(chain, head, found, moved)
    if moved is not None:
        place = _original_position(chain, head, found)
        there = f"what belongs here stands at position {moved.position:,}"
        if place in {None, expected}:
            return _finding("inserted", found, f"no such record was ever here; {there}")
        return _finding("reordered", found, f"it belongs at position {place:,}; {there}")
    return _changed_or_removed(chain, head, before_last, last, found)


def _gap(chain: Chain, head: Head, found: Record, moved: Record | None) -> Finding:
    """Say why there is nothing behind a head, but a record further on."""
    expected = head.position + 1
    if moved is not None:
        # In a file a record may stand on a wrong line, with the right position.
        where = f"at position {moved.position:,}"
        if moved.position == expected:
            where = f"behind position {found.position:,}"
        reason = f"it belongs here, and stands {where}"
        return Finding("reordered", expected, moved.event_id, reason)
    place = _original_position(chain, head, found)
    if place is None and _is_loose(chain, head, found):
        return _finding("inserted", found, "no record of the chain leads to it")
    if place is not None and place < expected:
        return _finding("inserted", found, f"a copy of what stands at position {place:,}")
    reason = f"nothing is here, and the next record is of position {found.position:,}"
    return Finding("removed", expected, None, reason, found.position - 1)


def _changed_or_removed(
    chain: Chain, head: Head, before_last: Head, last: Record | None, found: Record
) -> Finding:
    """Say what it means that a record stands at the next position and does not follow."""
    if found.previous_hash == head.hash:
        return _finding("changed", found, "its hash is not that of its content")
    if hash_of(found._replace(previous_hash=head.hash)) == found.hash:
        return _finding("changed", found, "its previous hash is not that of the record before it")
    if last is not None:
        is_before = found.previous_hash == before_last.hash
        if is_before and _belongs_at(found, last.position):
            return _finding("inserted", last, "what follows it followed the record before it")
        if is_intact(found):
            reason = "its hash is not the one that the next record knows it by"
            return _finding("changed", last, reason)
    return _unlinked(chain, head, found)


def _unlinked(chain: Chain, head: Head, found: Record) -> Finding:
    """Say what it means that a record agrees with nothing before it."""
    place = _original_position(chain, head, found)
    if place is not None and place > found.position:
        reason = f"in its place is the record that belongs at position {place:,}"
        return Finding("removed", found.position, None, reason, place - 1)
    if place is not None and place < found.position:
        return _finding("reordered", found, f"it belongs at position {place:,}")
    if place is None and _is_loose(chain, head, found):
        return _finding("inserted", found, "no record of the chain leads to it")
    return _finding("changed", found, "neither its hash nor the one before it is what it was")


def _is_loose(chain: Chain, head: Head, record: Record) -> bool:
    """Tell whether it stands at the end, and nothing behind the head names its hash."""
    if record.position != chain.last_position():
        return False
    followers = chain.followers(record.hash) if record.hash != GENESIS else ()
    return all(follower.position <= head.position for follower in followers)


def _rewritten(known: int, anchor: Anchor) -> Finding:
    reason = (
        f"the records agree with each other, but not with {anchor.origin}: at least one of them"
        " was altered, and every later one computed anew"
    )
    return Finding("rewritten", known + 1, None, reason, anchor.head.position)


def _truncated(position: int, last_position: int, origin: str, known: int) -> Finding:
    """Say that records are missing behind a position; up to `known` they were as anchors say."""
    reason = f"the trail ends before it, and {origin} knows of it"
    if known < position:
        # Whoever removes a record and computes the others anew has one less at the end.
        reason += (
            f"; the records from position {known + 1:,} on agree with each other, and with nothing"
            " that is known from elsewhere: one that is missing may have stood among them"
        )
    return Finding("truncated", position + 1, None, reason, last_position)


def _finding(kind: Kind, record: Record, reason: str) -> Finding:
    return Finding(kind, record.position, str(record.event_id), reason)


def _belongs_at(record: Record, position: int) -> bool:
    """Tell whether the hash of a record is that of its content at a position."""
    return hash_of(record._replace(position=position)) == record.hash


def _original_position(chain: Chain, head: Head, record: Record) -> int | None:
    """Return the position that a record was made for; None where its content is not that of then.

    It tries the one that it has, and then each that a record of so large a chain can have had:
    some microseconds for a record of the chain, once, where the chain is broken.
    """
    if is_intact(record):
        return record.position
    # A quote inside of a string has a backslash before it, so this is found nowhere else.
    start, _, rest = canonical(record).partition(_POSITION)
    end = rest[rest.index(b",") :]
    begun = sha256(start + _POSITION)
    # Not as far as the largest position, which whoever tampers with a row may choose.
    for position in range(1, head.position + chain.size() + _SHIFT):
        tried = begun.copy()
        tried.update(b"%d%b" % (position, end))
        if tried.digest() == record.hash:
            return position
    return None


_POSITION: Final = b',"position":'
_SHIFT: Final = 100_000
"""A closed gap of so many records is told as one; where more are gone, it looks like a change."""
