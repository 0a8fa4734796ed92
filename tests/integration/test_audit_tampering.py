"""A superuser alters rows of the trail; verifying names the record and the way."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox.audit.chain import START, Anchor, ChainBrokenError, Finding, Head, verified
from outbox.audit.record import to_json
from outbox.audit.store import TableChain
from outbox.table import outbox_audit
from outbox.testing import envelope
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


TEXTS = ("event_id", "source", "type", "subject", "partition_key", "actor", "correlation_id")
ERA = (
    "CAST(to_char(time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00 BC' AS timestamptz)"
)
STRANGE: dict[str, list[str]] = {
    "postgres_engine": [
        "time = 'infinity'",
        "time = '-infinity'",
        "time = '0044-03-15 BC'",
        f"time = {ERA}",
        "time = time + interval '10000 years'",
        "time = time + interval '1 microsecond'",
        "data_digest = ''",
        "version = -1",
    ],
    "sqlite_engine": [
        "time = 'yesterday'",
        "time = x'00ff'",
        "time = CAST(time AS BLOB)",
        "time = replace(time, '.000000Z', 'Z')",
        "time = time || char(0) || 'x'",
        "actor = x'ff'",
        "actor = CAST(x'ff' AS TEXT)",
        "version = 'one'",
        "version = 1.5",
        "hash = 'text'",
        "hash = CAST(hash AS TEXT)",
        "data_digest = ''",
        "previous_hash = 7",
        "type = 1",
        # They look the same, and no look-up finds them.
        *(f"{name} = CAST({name} AS BLOB)" for name in TEXTS),
    ],
    "mariadb_engine": [
        "event_id = x'ff'",
        "partition_key = x'ff'",
        "time = TIMESTAMPADD(MICROSECOND, 1, time)",
        "hash = 'text'",
        "subject = ''",
    ],
}
ODD = "a\ufffd\\xff b'x'"
"""A text that others are easily taken for: those that are no text, read somehow."""
LOOKALIKES = {
    "postgres_engine": [],
    "sqlite_engine": ["x'61ff5c7866662062277827'", "CAST(x'61efbfbdff2062277827' AS TEXT)"],
    "mariadb_engine": ["x'61ff5c7866662062277827'"],
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_value_that_nothing_would_write_is_a_change_like_any_other(
    request: pytest.FixtureRequest, name: str
) -> None:
    engine: sa.Engine = request.getfixturevalue(name)
    odd = envelope("t", ODD, sequence=5, actor=ODD, correlation_id="c-1")
    odd = replace(odd, subject="s", time=datetime(2026, 5, 1, tzinfo=UTC))
    with closing(AuditPublisher(engine.url, 30)) as publisher:
        publisher.publish([*events(4), odd, *events(5, first=6)])
    before = read(engine)
    changes = STRANGE[name] + [f"partition_key = {each}" for each in LOOKALIKES[name]]
    if name == "sqlite_engine":
        changes += [f"actor = {each}" for each in LOOKALIKES[name]]
    for change in changes:
        sql(engine, f"UPDATE outbox_audit SET {change} WHERE position = 5")
        assert read(engine) != before, change
        found = finding(engine)
        assert (change, found.kind, found.position) == (change, "changed", 5)
        assert [to_json(record) for record in read(engine)], "an export shows it all the same"
        alter(engine, before)
    assert read(engine) == before
    assert list(verified(TableChain(engine)))


RETYPED = {
    "postgres_engine": [
        ("ALTER COLUMN data_digest DROP NOT NULL", "data_digest = NULL", 5),
        ("ALTER COLUMN hash DROP NOT NULL", "hash = NULL", 5),
        ("ALTER COLUMN event_id DROP NOT NULL", "event_id = NULL", 5),
        ("ALTER COLUMN time DROP NOT NULL", "time = NULL", 5),
        ("ALTER COLUMN version TYPE numeric", "version = 1.5", 1),
        ("ALTER COLUMN data_digest TYPE text USING encode(data_digest, 'hex')", "version = 1", 1),
        ("ALTER COLUMN actor TYPE bytea USING convert_to(actor, 'UTF8')", "version = 1", 1),
        ("ALTER COLUMN position TYPE numeric", "version = 1", 0),
        (
            "DROP CONSTRAINT outbox_audit_pkey, ALTER COLUMN position DROP NOT NULL",
            "position = NULL",
            0,
        ),
    ],
    "mariadb_engine": [
        ("MODIFY data_digest BINARY(32) NULL", "data_digest = NULL", 5),
        ("MODIFY event_id VARBINARY(255) NULL", "event_id = NULL", 5),
        ("MODIFY version DECIMAL(5, 1)", "version = 1.5", 1),
        ("MODIFY actor LONGBLOB", "version = 1", 1),
    ],
}


@pytest.mark.parametrize(
    ("name", "alteration", "change", "position"),
    [(name, *each) for name, found in RETYPED.items() for each in found],
)
def test_a_column_of_another_type_is_a_change_like_any_other(
    request: pytest.FixtureRequest, name: str, alteration: str, change: str, position: int
) -> None:
    engine: sa.Engine = request.getfixturevalue(name)
    with closing(AuditPublisher(engine.url, 30)) as publisher:
        publisher.publish(events(10))
    sql(engine, f"ALTER TABLE outbox_audit {alteration}")
    sql(engine, f"UPDATE outbox_audit SET {change} WHERE position = 5")
    found = finding(engine)
    assert (found.kind, found.position) == ("changed", position)


def sql(engine: sa.Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
