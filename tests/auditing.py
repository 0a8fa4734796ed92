"""Records of an audit trail, in memory and in a table, and the five ways to tamper with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from outbox.audit.chain import START, Head, extend
from outbox.audit.record import Record, hash_of
from outbox.rows import Rows
from outbox.testing import envelope

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator, Sequence

    from outbox.envelope import Envelope

PAGE = 7


def events(count: int, first: int = 1) -> list[Envelope]:
    """Events of three keys, of which each second has an actor."""
    return [
        envelope(
            "t",
            f"key-{number % 3}",
            b'{"number": %d}' % number,
            sequence=number,
            actor="user:42" if number % 2 else None,
            correlation_id="c-1",
        )
        for number in range(first, first + count)
    ]


def records(count: int) -> list[Record]:
    """The records of so many events."""
    return extend(START, Rows.of(events(count)).rows)


def forged(record: Record, position: int, previous: bytes) -> Record:
    """A record that looks as if it belonged somewhere."""
    made = record._replace(
        position=position,
        event_id=envelope("t").id,
        actor="user:666",
        previous_hash=previous,
        sequence=10_000 + position,
    )
    return made._replace(hash=hash_of(made))


@dataclass
class Listed:
    """A chain in memory, by the positions of its records."""

    records: Sequence[Record]

    def pages(self, after: int | None) -> Iterator[Sequence[Record]]:
        found = sorted(self.records)
        if after is not None:
            found = [record for record in found if record.position > after]
        for start in range(0, len(found), PAGE):
            yield found[start : start + PAGE]

    def followers(self, previous_hash: bytes) -> Sequence[Record]:
        return [record for record in self.records if record.previous_hash == previous_hash]

    def last_position(self) -> int:
        return max((record.position for record in self.records), default=0)

    def size(self) -> int:
        return len(self.records)

    @property
    def start(self) -> Head:
        return START

    def head_at(self, position: int) -> Head | None:
        if position == START.position:
            return START
        return next(
            (Head(r.position, r.hash) for r in self.records if r.position == position), None
        )


@dataclass(frozen=True)
class Tampered:
    """What was done, and what has to be found."""

    records: list[Record]
    kind: str
    position: int
    event_id: str | None


def change(chain: list[Record], at: int, rng: random.Random) -> Tampered:
    """Another value in one column, the hashes included."""
    found = chain[at]
    altered = rng.choice(
        [
            found._replace(actor="user:666"),
            found._replace(data_digest=bytes(32)),
            found._replace(time="2020-01-01T00:00:00Z"),
            found._replace(subject="another"),
            found._replace(sequence=found.sequence + 1_000_000),
            found._replace(hash=bytes(32)),
            found._replace(previous_hash=bytes(31) + b"\x01"),
        ]
    )
    return Tampered([*chain[:at], altered, *chain[at + 1 :]], "changed", at + 1, found.event_id)


def change_and_hash(chain: list[Record], at: int, rng: random.Random) -> Tampered:
    """Another value, and the right hash for it."""
    altered = chain[at]._replace(actor="user:666")
    altered = altered._replace(hash=hash_of(altered))
    return Tampered([*chain[:at], altered, *chain[at + 1 :]], "changed", at + 1, altered.event_id)


def remove(chain: list[Record], at: int, rng: random.Random) -> Tampered:
    """One or several, which leaves a gap."""
    count = rng.randint(1, 3)
    left = [*chain[:at], *chain[min(at + count, len(chain) - 1) :]]
    return Tampered(left, "removed", at + 1, None)


def remove_and_close(chain: list[Record], at: int, rng: random.Random) -> Tampered:
    """And number the others anew."""
    left = [record._replace(position=record.position - 1) for record in chain[at + 1 :]]
    return Tampered([*chain[:at], *left], "removed", at + 1, None)


def insert(chain: list[Record], at: int, rng: random.Random) -> Tampered:
    """A forged record, with the right previous hash or not; those behind it make room."""
    previous = chain[at - 1].hash if at else START.hash
    made = forged(chain[at], at + 1, rng.choice([previous, bytes(32)]))
    if rng.random() < 0.3:
        made = made._replace(hash=bytes(32))
    behind = [record._replace(position=record.position + 1) for record in chain[at:]]
    return Tampered([*chain[:at], made, *behind], "inserted", at + 1, made.event_id)


def append(chain: list[Record], at: int, rng: random.Random) -> Tampered:
    """A forged record behind the end, that follows nothing."""
    position = len(chain) + rng.randint(1, 5)
    made = forged(chain[at], position, b"\x01" * 32)._replace(hash=bytes(32))
    return Tampered([*chain, made], "inserted", position, made.event_id)


def swap(chain: list[Record], at: int, rng: random.Random) -> Tampered:
    """Two records change places."""
    other = rng.randrange(at + 1, len(chain))
    altered = list(chain)
    altered[at] = chain[other]._replace(position=at + 1)
    altered[other] = chain[at]._replace(position=other + 1)
    return Tampered(altered, "reordered", at + 1, chain[other].event_id)


def move_back(chain: list[Record], at: int, rng: random.Random) -> Tampered:
    """One comes to stand behind others, which move up."""
    to = rng.randrange(at + 1, len(chain))
    altered = [*chain[:at], *chain[at + 1 : to + 1], chain[at], *chain[to + 1 :]]
    altered = [record._replace(position=place) for place, record in enumerate(altered, 1)]
    return Tampered(altered, "reordered", at + 1, chain[at + 1].event_id)


def move_away(chain: list[Record], at: int, rng: random.Random) -> Tampered:
    """One gets a number far behind."""
    moved = chain[at]._replace(position=len(chain) + 100)
    return Tampered([*chain[:at], *chain[at + 1 :], moved], "reordered", at + 1, moved.event_id)


def insert_far_away(chain: list[Record], at: int, rng: random.Random) -> Tampered:
    """What looks like a copy, at a position that no chain will ever have."""
    position = 2**63 - 1 - rng.randrange(10)
    made = chain[at]._replace(position=position, sequence=10_000)
    if rng.random() < 0.5:
        made = made._replace(event_id=envelope("t").id, hash=bytes(32))
    return Tampered([*chain, made], "inserted", position, made.event_id)


WAYS: dict[str, Callable[[list[Record], int, random.Random], Tampered]] = {
    way.__name__: way
    for way in (
        change,
        change_and_hash,
        remove,
        remove_and_close,
        insert,
        append,
        insert_far_away,
        swap,
        move_back,
        move_away,
    )
}
"""All but truncation, which only an anchor tells."""


def rewrite(chain: Sequence[Record], at: int, actor: str = "user:666") -> list[Record]:
    """Alter a record, and compute it and every later one anew."""
    made = list(chain[:at])
    previous = made[-1].hash if made else START.hash
    for record in chain[at:]:
        changed = record._replace(actor=actor) if record.position == at + 1 else record
        changed = changed._replace(previous_hash=previous)
        changed = changed._replace(hash=hash_of(changed))
        previous = changed.hash
        made.append(changed)
    return made


def with_sequences(envelopes: Sequence[Envelope]) -> list[Envelope]:
    """Number events that never stood in a table."""
    return [replace(each, sequence=number) for number, each in enumerate(envelopes, 1)]


def positions(engine: sa.Engine) -> list[tuple[int, str]]:
    """The positions of a trail and the keys of its events."""
    with engine.connect() as connection:
        found = connection.execute(
            sa.text("SELECT position, event_id FROM outbox_audit ORDER BY position")
        )
        return [(position, str(event_id)) for position, event_id in found]
