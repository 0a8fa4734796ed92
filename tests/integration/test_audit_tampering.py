"""A superuser alters rows of the trail; verifying names the record and the way."""

from __future__ import annotations

import random
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox.audit.chain import START, Anchor, ChainBrokenError, Finding, Head, verified
from outbox.audit.store import TableChain
from outbox.table import outbox_audit
from outbox.transports.audit.publishing import AuditPublisher, _values
from tests.auditing import WAYS, events, rewrite

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from outbox.audit.record import Record

COUNT = 60
ROUNDS = 4


@pytest.fixture(params=["postgres_engine", "sqlite_engine", "mariadb_engine"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    made: sa.Engine = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def kept(engine: sa.Engine) -> list[Record]:
    """The records as they were written."""
    with closing(AuditPublisher(engine.url, 30)) as publisher:
        publisher.publish(events(COUNT))
    return read(engine)


def read(engine: sa.Engine) -> list[Record]:
    return [record for page in TableChain(engine).pages(None) for record in page]


def alter(engine: sa.Engine, wanted: Sequence[Record]) -> None:
    """Delete the rows that are not to be there, and insert those that are."""
    there = read(engine)
    with engine.begin() as connection:
        for record in set(there) - set(wanted):
            connection.execute(
                sa.delete(outbox_audit).where(outbox_audit.c.position == record.position)
            )
        new = [_values(record) for record in set(wanted) - set(there)]
        if new:
            connection.execute(sa.insert(outbox_audit), new)


def finding(engine: sa.Engine, anchors: Iterable[Anchor] = ()) -> Finding:
    with pytest.raises(ChainBrokenError) as caught:
        list(verified(TableChain(engine), START, anchors))
    return caught.value.finding


def test_each_way_is_named_at_the_record_where_it_was_done(
    engine: sa.Engine, kept: list[Record]
) -> None:
    for way, tamper in WAYS.items():
        for seed in range(ROUNDS):
            rng = random.Random(f"{way} {seed}")
            done = tamper(kept, rng.randrange(COUNT - 2), rng)
            alter(engine, done.records)
            found = finding(engine)
            assert (way, seed, found.kind, found.position, found.event_id) == (
                way,
                seed,
                done.kind,
                done.position,
                done.event_id,
            )
            alter(engine, kept)
    assert len(list(verified(TableChain(engine)))) == 1


def test_what_was_cut_off_or_computed_anew_is_told_by_what_was_known(
    engine: sa.Engine, kept: list[Record]
) -> None:
    anchors = [Anchor(Head(p, kept[p - 1].hash), f"seal of {p}") for p in (20, COUNT)]
    rng = random.Random(1)
    for _ in range(ROUNDS):
        at = rng.randrange(COUNT)
        alter(engine, kept[:at])
        assert list(verified(TableChain(engine))) or at == 0
        found = finding(engine, anchors)
        assert (found.kind, found.position) == ("truncated", at + 1)
        alter(engine, rewrite(kept, at))
        assert list(verified(TableChain(engine)))
        found = finding(engine, anchors)
        span = (1, 20) if at < 20 else (21, COUNT)
        assert (found.kind, found.position, found.last_position) == ("rewritten", *span)
        alter(engine, kept)


STRANGE: list[tuple[str, str]] = [
    ("postgres_engine", "time = 'infinity'"),
    ("postgres_engine", "time = '-infinity'"),
    ("postgres_engine", "time = '0044-03-15 BC'"),
    ("postgres_engine", "time = time + interval '1 microsecond'"),
    ("postgres_engine", "data_digest = ''"),
    ("postgres_engine", "version = -1"),
    ("sqlite_engine", "time = 'yesterday'"),
    ("sqlite_engine", "time = x'00ff'"),
    ("sqlite_engine", "actor = x'ff'"),
    ("sqlite_engine", "actor = CAST(x'ff' AS TEXT)"),
    ("sqlite_engine", "version = 'one'"),
    ("sqlite_engine", "version = 1.5"),
    ("sqlite_engine", "hash = 'text'"),
    ("sqlite_engine", "previous_hash = 7"),
    ("sqlite_engine", "type = 1"),
    ("mariadb_engine", "event_id = x'ff'"),
    ("mariadb_engine", "partition_key = x'ff'"),
    ("mariadb_engine", "time = TIMESTAMPADD(MICROSECOND, 1, time)"),
    ("mariadb_engine", "hash = 'text'"),
    ("mariadb_engine", "subject = ''"),
]


@pytest.mark.parametrize("name", ["postgres_engine", "sqlite_engine", "mariadb_engine"])
def test_a_value_that_nothing_would_write_is_a_change_like_any_other(
    request: pytest.FixtureRequest, name: str
) -> None:
    engine: sa.Engine = request.getfixturevalue(name)
    with closing(AuditPublisher(engine.url, 30)) as publisher:
        publisher.publish(events(10))
    before = read(engine)
    for _, change in [each for each in STRANGE if each[0] == name]:
        statement = f"UPDATE outbox_audit SET {change} WHERE position = 5"
        with engine.begin() as connection:
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        found = finding(engine)
        assert (change, found.kind, found.position) == (change, "changed", 5)
        alter(engine, before)
    assert read(engine) == before
