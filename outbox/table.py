"""② All tables, as SQLAlchemy Core; `migrations/` creates the same.

An application with Alembic of its own adds `outbox.metadata` to its `target_metadata` and calls
`outbox.metadata.create_all(op.get_bind())` in a migration; anyone else runs `outbox migrate`.

Whatever writes SQL may emit: another language, psql, a trigger. `type` and `data` are enough, and
`partition_key` where order counts; insert after the state has changed, in its transaction. `data`
is bytes, so on PostgreSQL text goes in by `convert_to`; on MariaDB it goes in as the client sends
it, so the character set of the connection has to be utf8mb4:

    INSERT INTO outbox_event (type, partition_key, data)
    VALUES ('shop.order.placed', 'o-1', convert_to('{"order_id": "o-1"}', 'UTF8'));
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql

from outbox import clock
from outbox.columns import (
    C_NAME,
    DATA,
    HASH,
    NUMBER,
    JsonObject,
    Name,
    Text,
    Uuid,
    Xid8,
    own_transaction,
    random_uuid,
)
from outbox.dialect import MYSQL
from outbox.envelope import MAX_NAME_BYTES

# So that an application's Alembic recognises the column instead of warning of it.
postgresql.base.ischema_names["xid8"] = Xid8

LENGTHS: Final = (
    f"octet_length(partition_key) <= {MAX_NAME_BYTES} AND octet_length(source) <= {MAX_NAME_BYTES}"
)
LENGTHS_SQLITE: Final = (
    f"length(CAST(partition_key AS BLOB)) <= {MAX_NAME_BYTES}"
    f" AND length(CAST(source AS BLOB)) <= {MAX_NAME_BYTES}"
)
_DAY: Final = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
TIME_SQLITE: Final = (
    "julianday(time) IS NOT NULL AND instr(time, char(0)) = 0"
    " AND time >= '0001-01-02' AND time < '9999-12-31'"
    f" AND (time GLOB '{_DAY}[ T][0-2][0-9]:*' OR time GLOB '{_DAY}')"
    " AND substr(time, 12, 2) < '24' AND substr(time, 12) NOT GLOB '*[^0-9:.Zz+-]*'"
    " AND (substr(time, 9, 2) < '29' OR time NOT GLOB '0300-02*'"
    " AND date(julianday(substr(time, 1, 10))) IS substr(time, 1, 10))"
)
"""SQLite takes a 30th of February, the hour 24 and blanks for times as well, at which every relay
would stop; and the year 300 for a leap year."""
TEXT_SQLITE: Final = (
    "'blob' NOT IN (typeof(id), typeof(source), typeof(type), typeof(subject),"
    " typeof(partition_key), typeof(topic), typeof(content_type), typeof(headers))"
)
HEADERS_SQLITE: Final = (
    "json_valid(headers) AND json_type(headers) = 'object' AND instr(headers, char(0)) = 0"
)
"""SQLite takes for JSON what is JSON up to a NUL."""
TIME_MYSQL: Final = "time > '0001-01-02 00:00:00' AND time < '9999-12-31 00:00:00'"
UUID_MYSQL: Final = "id REGEXP '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'"
HEADERS_MYSQL: Final = (
    r"json_valid(headers) AND json_type(headers) = 'OBJECT' AND headers REGEXP '^("
    r'[^"0-9\\\\-]|'
    r'"[^"\\\\]*+(\\\\(["\\\\/bfnrt]|u(?!0000))[^"\\\\]*+)*+"|'
    r"-?(0|[1-9][0-9]{0,199})(\\.[0-9]{1,199})?([eE][+-]?[0-9]{1,2})?(?![0-9.eE+-])"
    r")*+$'"
)
r"""MariaDB takes `\q`, `5.`, `1e999` and `-` for JSON, at which every relay would stop; so what its
strings and numbers are made of is looked at as well, and `\u0000` refused as on PostgreSQL."""

INNODB: Final[dict[str, Any]] = {
    f"{name}_{option}": value
    for name in MYSQL
    # The row format, because in an older one an index takes a quarter of the bytes.
    for option, value in {"engine": "InnoDB", "charset": "utf8mb4", "row_format": "DYNAMIC"}.items()
}
IN_MEMORY: Final[dict[str, Any]] = {f"{name}_engine": "MEMORY" for name in MYSQL}

_Item = TypeVar("_Item", sa.CheckConstraint, sa.Index)

metadata = sa.MetaData()


def _on(names: tuple[str, ...], item: _Item) -> _Item:
    """Leave a check or an index to databases of these names."""
    item.ddl_if(dialect=names)  # type: ignore[arg-type]  # it takes several, as its text says
    return item


def _after_create(table: sa.Table, statement: str) -> None:
    """Add what SQLAlchemy cannot say in a table; PostgreSQL only."""
    ddl = sa.DDL(statement)  # type: ignore[no-untyped-call]  # SQLAlchemy left it without types
    sa.event.listen(table, "after_create", ddl.execute_if(dialect="postgresql"))


outbox_event = sa.Table(
    "outbox_event",
    metadata,
    # Declared before `seq`, so that a transaction has its id before its row has its number: the
    # capture rests on that. Null on databases that do not tell it.
    sa.Column(
        "transaction_id",
        Xid8().with_variant(sa.Text(), "sqlite").with_variant(mysql.BIGINT(unsigned=True), *MYSQL),
        server_default=own_transaction(),
    ),
    sa.Column("seq", NUMBER, sa.Identity(always=True, cache=1), primary_key=True),
    sa.Column("id", Uuid, nullable=False, server_default=random_uuid()),
    sa.Column("source", Text),
    sa.Column("type", Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.Column("subject", Text),
    sa.Column("partition_key", Text),
    sa.Column("topic", Text),
    sa.Column("time", clock.Timestamp, nullable=False, server_default=clock.now()),
    sa.Column("content_type", Text, nullable=False, server_default=sa.text("('application/json')")),
    sa.Column("data", DATA, nullable=False),
    sa.Column("headers", JsonObject, nullable=False, server_default=sa.text("('{}')")),
    sa.CheckConstraint("type <> '' AND version >= 1", name="outbox_event_attributes"),
    # Of a longer one no dead letter could be written, which would stop every relay.
    _on(("postgresql", *MYSQL), sa.CheckConstraint(LENGTHS, name="outbox_event_lengths")),
    sa.CheckConstraint(LENGTHS_SQLITE, name="outbox_event_lengths").ddl_if(dialect="sqlite"),
    # What Python's datetime cannot hold would stop every relay.
    sa.CheckConstraint(
        "time > '0001-01-02 00:00:00+00' AND time < '9999-12-31 00:00:00+00'",
        name="outbox_event_time",
    ).ddl_if(dialect="postgresql"),
    sa.CheckConstraint(TIME_SQLITE, name="outbox_event_time").ddl_if(dialect="sqlite"),
    _on(MYSQL, sa.CheckConstraint(TIME_MYSQL, name="outbox_event_time")),
    sa.CheckConstraint("typeof(version) = 'integer'", name="outbox_event_version").ddl_if(
        dialect="sqlite"
    ),
    sa.CheckConstraint("jsonb_typeof(headers) = 'object'", name="outbox_event_headers").ddl_if(
        dialect="postgresql"
    ),
    sa.CheckConstraint(HEADERS_SQLITE, name="outbox_event_headers").ddl_if(dialect="sqlite"),
    sa.CheckConstraint(TEXT_SQLITE, name="outbox_event_text").ddl_if(dialect="sqlite"),
    _on(MYSQL, sa.CheckConstraint(UUID_MYSQL, name="outbox_event_id")),
    _on(MYSQL, sa.CheckConstraint(HEADERS_MYSQL, name="outbox_event_headers")),
    # On SQLite, where Alembic would miss it, it is there and always empty. MariaDB and MySQL could
    # only have it full of rows that nobody looks for (see `outbox.migration.include_object`).
    _on(
        ("postgresql", "sqlite"),
        sa.Index(
            "outbox_event_transaction",
            "transaction_id",
            "seq",
            sqlite_where=sa.text("transaction_id IS NOT NULL"),
        ),
    ),
    **INNODB,
    sqlite_autoincrement=True,  # a number is never given twice, deleted rows included
)

GUARD: Final = """\
ALTER TABLE outbox_event ADD CONSTRAINT outbox_event_own CHECK (
    (transaction_id = pg_current_xact_id() AND seq = currval('outbox_event_seq_seq')) IS TRUE
) NOT VALID"""
"""Refuses rows that were restored, replicated, updated or numbered by hand: the capture would lose
or repeat them. NOT VALID, and by ALTER TABLE, so that a dump of the table can be restored."""

_after_create(outbox_event, GUARD)

outbox_incarnation = sa.Table(
    # One UUID that a crash, a fail-over, a restore or a clone of the server empties, because the
    # table is unlogged: what a relay remembers of an older incarnation is then not trusted.
    # On MariaDB and MySQL it is in memory, so each start of the server empties it.
    "outbox_incarnation",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("id", Uuid, nullable=False, server_default=random_uuid()),
    sa.CheckConstraint("singleton", name="outbox_incarnation_one"),
    **IN_MEMORY,
)
_after_create(outbox_incarnation, "ALTER TABLE outbox_incarnation SET UNLOGGED")

outbox_checkpoint = sa.Table(
    "outbox_checkpoint",
    metadata,
    sa.Column("route", Name, primary_key=True),
    # Names the route beyond this database: a broker tells by it the relays of one route apart
    # from those of a route that is called the same elsewhere.
    sa.Column("identity", Uuid, nullable=False, server_default=random_uuid()),
    sa.Column("position", JsonObject),  # null: not started
    sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("token", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("holder", Text),
    sa.Column("expires_at", clock.Timestamp),  # null: nobody holds the lease
    sa.Column("advanced_at", clock.Timestamp),
    sa.Column("error", Text),  # why the route stands still; null while it does not
    sa.Column("error_at", clock.Timestamp),
    **INNODB,
)

outbox_dead_letter = sa.Table(
    "outbox_dead_letter",
    metadata,
    sa.Column("id", NUMBER, sa.Identity(), primary_key=True),
    sa.Column("stage", Name(16), nullable=False),  # "relay" or "consumer"
    sa.Column("owner", Name, nullable=False),  # the route or the consumer
    sa.Column("status", Text, nullable=False),  # see `outbox.dead_letter`
    sa.Column("reason", Text, nullable=False),
    sa.Column("attempt_count", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.Column("first_failed_at", clock.Timestamp, nullable=False, server_default=clock.now()),
    sa.Column("last_failed_at", clock.Timestamp, nullable=False, server_default=clock.now()),
    sa.Column("resolved_at", clock.Timestamp),
    sa.Column("note", Text),  # why it was discarded
    sa.Column("place", Text),  # where a consumer found it: topic[partition]@offset
    sa.Column("event_id", C_NAME, nullable=False),
    sa.Column("source", C_NAME, nullable=False),
    sa.Column("type", Text),  # null, like the rest below, where it could not be decoded
    sa.Column("version", sa.Integer),
    sa.Column("subject", Text),
    sa.Column("partition_key", Name),
    sa.Column("topic", Text),
    sa.Column("time", clock.Timestamp),
    sa.Column("content_type", Text),
    sa.Column("data", DATA, nullable=False),
    sa.Column("headers", JsonObject, nullable=False),
    sa.Column("sequence", NUMBER),
    sa.UniqueConstraint("stage", "owner", "source", "event_id", name="outbox_dead_letter_event"),
    **INNODB,
    sqlite_autoincrement=True,
)
sa.Index(
    "outbox_dead_letter_unresolved",
    outbox_dead_letter.c.stage,
    outbox_dead_letter.c.owner,
    # For MariaDB and MySQL, whose indexes hold every row; elsewhere it is always null here.
    outbox_dead_letter.c.resolved_at,
    outbox_dead_letter.c.partition_key,
    outbox_dead_letter.c.id,
    postgresql_where=outbox_dead_letter.c.resolved_at.is_(None),
    sqlite_where=outbox_dead_letter.c.resolved_at.is_(None),
)

outbox_inbox = sa.Table(
    "outbox_inbox",
    metadata,
    sa.Column("consumer", C_NAME, primary_key=True),
    sa.Column("source", C_NAME, primary_key=True),
    sa.Column("event_id", C_NAME, primary_key=True),
    sa.Column("processed_at", clock.Timestamp, nullable=False, server_default=clock.now()),
    **INNODB,
)

outbox_personal_key = sa.Table(
    "outbox_personal_key",
    metadata,
    sa.Column("id", Name(32), primary_key=True),
    sa.Column("subject", Name(500, collation="C"), nullable=False),
    # Empty for the key that is in use, of which a subject has one; else the id.
    sa.Column("retired", Name(32), nullable=False, server_default=sa.text("('')")),
    sa.Column("master_key", Name(16)),  # which one has wrapped it
    sa.Column("wrapped_key", DATA),  # null: forgotten
    sa.Column("created_at", clock.Timestamp, nullable=False, server_default=clock.now()),
    sa.Column("forgotten_at", clock.Timestamp),
    sa.UniqueConstraint("subject", "retired", name="outbox_personal_key_subject"),
    **INNODB,
)
outbox_audit = sa.Table(
    # The hash chain of every event that a route of the transport `audit` has carried: rows are
    # only ever added. See `outbox.audit`.
    "outbox_audit",
    metadata,
    sa.Column("position", NUMBER, primary_key=True, autoincrement=False),  # 1, 2, 3, …
    sa.Column("event_id", C_NAME, nullable=False),
    sa.Column("source", C_NAME, nullable=False),
    sa.Column("type", Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("subject", Text),
    sa.Column("partition_key", Name),
    sa.Column("actor", Text),
    sa.Column("correlation_id", Text),
    sa.Column("causation_id", Text),
    sa.Column("time", clock.Timestamp, nullable=False),
    sa.Column("sequence", NUMBER, nullable=False),  # in outbox_event; 0: never stood there
    sa.Column("data_digest", HASH, nullable=False),
    sa.Column("previous_hash", HASH, nullable=False),
    sa.Column("hash", HASH, nullable=False),
    sa.Column("recorded_at", clock.Timestamp, nullable=False, server_default=clock.now()),
    # With the number, because a producer may give two rows one id, and both did happen.
    sa.UniqueConstraint("event_id", "source", "sequence", name="outbox_audit_event"),
    sa.CheckConstraint("position >= 1", name="outbox_audit_position"),
    **INNODB,
)
# For whoever asks what happened to one aggregate.
sa.Index("outbox_audit_key", outbox_audit.c.partition_key, outbox_audit.c.position)
