"""② All tables, as SQLAlchemy Core; `migrations/` creates the same.

An application with Alembic of its own adds `outbox.metadata` to its `target_metadata` and calls
`outbox.metadata.create_all(op.get_bind())` in a migration; anyone else runs `outbox migrate`.

Whatever writes SQL may emit: another language, psql, a trigger. `type` and `data` are enough, and
`partition_key` where order counts; insert after the state has changed, in its transaction. `data`
is bytes, so on PostgreSQL text goes in by `convert_to`:

    INSERT INTO outbox_event (type, partition_key, data)
    VALUES ('shop.order.placed', 'o-1', convert_to('{"order_id": "o-1"}', 'UTF8'));
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement

from outbox import clock
from outbox.envelope import MAX_NAME_BYTES

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect
    from sqlalchemy.sql.compiler import SQLCompiler


class Xid8(sa.types.UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Name the type in DDL."""
        return "xid8"


# So that an application's Alembic recognises the column instead of warning of it.
postgresql.base.ischema_names["xid8"] = Xid8


class _transaction_id(ColumnElement[str]):  # noqa: N801  # reads as the SQL function that it is
    """The id of the writing transaction where the database has one that it tells."""

    inherit_cache = True
    type = Xid8()


@compiles(_transaction_id)
def _own_transaction(_element: _transaction_id, _compiler: SQLCompiler, **_: object) -> str:
    return "pg_current_xact_id()"


@compiles(_transaction_id, "sqlite")
def _no_transaction(_element: _transaction_id, _compiler: SQLCompiler, **_: object) -> str:
    return "NULL"


class JsonObject(sa.types.TypeDecorator[dict[str, Any]]):
    """A JSON object: `jsonb`, or text on SQLite."""

    impl = postgresql.JSONB
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """Choose text where the database has no JSON type."""
        kind = sa.Text() if dialect.name == "sqlite" else postgresql.JSONB(none_as_null=True)
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Dialect) -> Any:
        """Serialise where the driver does not."""
        if value is None or dialect.name != "sqlite":
            return value
        return orjson.dumps(value).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, Any] | None:
        """Parse where the driver does not."""
        if value is None or dialect.name != "sqlite":
            stored: dict[str, Any] | None = value
            return stored
        parsed: dict[str, Any] = orjson.loads(value)
        return parsed


class _random_uuid(ColumnElement[str]):  # noqa: N801  # reads as the SQL function that it is
    """A random UUID (version 4) as a column default, for producers that write plain SQL."""

    inherit_cache = True
    type = sa.Text()


@compiles(_random_uuid)
def _uuid(_element: _random_uuid, _compiler: SQLCompiler, **_: object) -> str:
    return "gen_random_uuid()"


@compiles(_random_uuid, "sqlite")
def _uuid_sqlite(_element: _random_uuid, _compiler: SQLCompiler, **_: object) -> str:
    return (
        "(lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' ||"
        " substr(hex(randomblob(2)), 2) || '-' || substr('89ab', 1 + (abs(random()) % 4), 1) ||"
        " substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))"
    )


NUMBER: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
UUID: Final = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")
C_TEXT: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Compared byte by byte: ids need no language's rules, and sort faster without them."""

LENGTHS: Final = (
    f"octet_length(partition_key) <= {MAX_NAME_BYTES} AND octet_length(source) <= {MAX_NAME_BYTES}"
)
LENGTHS_SQLITE: Final = (
    f"length(CAST(partition_key AS BLOB)) <= {MAX_NAME_BYTES}"
    f" AND length(CAST(source AS BLOB)) <= {MAX_NAME_BYTES}"
)

metadata = sa.MetaData()


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
        Xid8().with_variant(sa.Text(), "sqlite"),
        server_default=_transaction_id(),
    ),
    sa.Column("seq", NUMBER, sa.Identity(always=True, cache=1), primary_key=True),
    sa.Column("id", UUID, nullable=False, server_default=_random_uuid()),
    sa.Column("source", sa.Text),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.Column("subject", sa.Text),
    sa.Column("partition_key", sa.Text),
    sa.Column("topic", sa.Text),
    sa.Column("time", clock.Timestamp, nullable=False, server_default=clock.now()),
    sa.Column(
        "content_type", sa.Text, nullable=False, server_default=sa.text("'application/json'")
    ),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("headers", JsonObject, nullable=False, server_default=sa.text("'{}'")),
    sa.CheckConstraint("type <> '' AND version >= 1", name="outbox_event_attributes"),
    # Of a longer one no dead letter could be written, which would stop every relay.
    sa.CheckConstraint(LENGTHS, name="outbox_event_lengths").ddl_if(dialect="postgresql"),
    sa.CheckConstraint(LENGTHS_SQLITE, name="outbox_event_lengths").ddl_if(dialect="sqlite"),
    # What Python's datetime cannot hold would stop every relay.
    sa.CheckConstraint(
        "time > '0001-01-02 00:00:00+00' AND time < '9999-12-31 00:00:00+00'",
        name="outbox_event_time",
    ).ddl_if(dialect="postgresql"),
    sa.CheckConstraint(
        "julianday(time) IS NOT NULL AND time GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*'",
        name="outbox_event_time",
    ).ddl_if(dialect="sqlite"),
    sa.CheckConstraint("typeof(version) = 'integer'", name="outbox_event_version").ddl_if(
        dialect="sqlite"
    ),
    sa.CheckConstraint("jsonb_typeof(headers) = 'object'", name="outbox_event_headers").ddl_if(
        dialect="postgresql"
    ),
    sa.CheckConstraint(
        "json_valid(headers) AND json_type(headers) = 'object'", name="outbox_event_headers"
    ).ddl_if(dialect="sqlite"),
    # On SQLite, where Alembic would miss it, it is there and always empty.
    sa.Index(
        "outbox_event_transaction",
        "transaction_id",
        "seq",
        sqlite_where=sa.text("transaction_id IS NOT NULL"),
    ),
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
    "outbox_incarnation",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("id", UUID, nullable=False, server_default=_random_uuid()),
    sa.CheckConstraint("singleton", name="outbox_incarnation_one"),
)
_after_create(outbox_incarnation, "ALTER TABLE outbox_incarnation SET UNLOGGED")

outbox_checkpoint = sa.Table(
    "outbox_checkpoint",
    metadata,
    sa.Column("route", sa.Text, primary_key=True),
    # Names the route beyond this database: a broker tells by it the relays of one route apart
    # from those of a route that is called the same elsewhere.
    sa.Column("identity", UUID, nullable=False, server_default=_random_uuid()),
    sa.Column("position", JsonObject),  # null: not started
    sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("token", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("holder", sa.Text),
    sa.Column("expires_at", clock.Timestamp),  # null: nobody holds the lease
    sa.Column("advanced_at", clock.Timestamp),
    sa.Column("error", sa.Text),  # why the route stands still; null while it does not
    sa.Column("error_at", clock.Timestamp),
)

outbox_dead_letter = sa.Table(
    "outbox_dead_letter",
    metadata,
    sa.Column("id", NUMBER, sa.Identity(), primary_key=True),
    sa.Column("stage", sa.Text, nullable=False),  # "relay" or "consumer"
    sa.Column("owner", sa.Text, nullable=False),  # the route or the consumer
    sa.Column("status", sa.Text, nullable=False),  # see `outbox.dead_letter`
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("attempt_count", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.Column("first_failed_at", clock.Timestamp, nullable=False, server_default=clock.now()),
    sa.Column("last_failed_at", clock.Timestamp, nullable=False, server_default=clock.now()),
    sa.Column("resolved_at", clock.Timestamp),
    sa.Column("note", sa.Text),  # why it was discarded
    sa.Column("place", sa.Text),  # where a consumer found it: topic[partition]@offset
    sa.Column("event_id", C_TEXT, nullable=False),
    sa.Column("source", C_TEXT, nullable=False),
    sa.Column("type", sa.Text),  # null, like the rest below, where it could not be decoded
    sa.Column("version", sa.Integer),
    sa.Column("subject", sa.Text),
    sa.Column("partition_key", sa.Text),
    sa.Column("topic", sa.Text),
    sa.Column("time", clock.Timestamp),
    sa.Column("content_type", sa.Text),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("headers", JsonObject, nullable=False),
    sa.Column("sequence", NUMBER),
    sa.UniqueConstraint("stage", "owner", "source", "event_id", name="outbox_dead_letter_event"),
    sqlite_autoincrement=True,
)
sa.Index(
    "outbox_dead_letter_unresolved",
    outbox_dead_letter.c.stage,
    outbox_dead_letter.c.owner,
    outbox_dead_letter.c.partition_key,
    outbox_dead_letter.c.id,
    postgresql_where=outbox_dead_letter.c.resolved_at.is_(None),
    sqlite_where=outbox_dead_letter.c.resolved_at.is_(None),
)

outbox_inbox = sa.Table(
    "outbox_inbox",
    metadata,
    sa.Column("consumer", C_TEXT, primary_key=True),
    sa.Column("source", C_TEXT, primary_key=True),
    sa.Column("event_id", C_TEXT, primary_key=True),
    sa.Column("processed_at", clock.Timestamp, nullable=False, server_default=clock.now()),
)
