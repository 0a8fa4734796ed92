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
from sqlalchemy.dialects import mysql, postgresql
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
@compiles(_transaction_id, "mariadb")
def _no_transaction(_element: _transaction_id, _compiler: SQLCompiler, **_: object) -> str:
    return "NULL"


class JsonObject(sa.types.TypeDecorator[dict[str, Any]]):
    """A JSON object: `jsonb`, or text on other databases."""

    impl = postgresql.JSONB
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """Choose text where the database has no JSON type, or only a name for text."""
        kind: sa.types.TypeEngine[Any] = sa.Text()
        if dialect.name == "postgresql":
            kind = postgresql.JSONB(none_as_null=True)
        elif dialect.name == "mariadb":
            kind = mysql.LONGTEXT()
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Dialect) -> Any:
        """Serialise where the driver does not."""
        if value is None or dialect.name == "postgresql":
            return value
        return orjson.dumps(value).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, Any] | None:
        """Parse where the driver does not."""
        if value is None or dialect.name == "postgresql":
            stored: dict[str, Any] | None = value
            return stored
        parsed: dict[str, Any] = orjson.loads(value)
        return parsed


class Name(sa.types.TypeDecorator[str]):
    """Text that is compared byte by byte, and no longer than `MAX_NAME_BYTES` where it is a key.

    On MariaDB it is stored as bytes: text of this length is too long for a key there, because
    each letter counts as four bytes.
    """

    impl = sa.Text
    cache_ok = True

    def __init__(self, collation: str | None = None) -> None:
        """Take the collation on PostgreSQL, by default the database's own."""
        super().__init__()
        self.collation = collation

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """Choose bytes on MariaDB."""
        if dialect.name == "mariadb":
            return dialect.type_descriptor(sa.VARBINARY(MAX_NAME_BYTES))
        return sa.Text(collation=self.collation if dialect.name == "postgresql" else None)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """Encode where the driver does not."""
        return value.encode() if value is not None and dialect.name == "mariadb" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Decode where the driver does not."""
        text: str | None = value
        if value is not None and dialect.name == "mariadb":
            text = bytes(value).decode()
        return text


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


@compiles(_random_uuid, "mariadb")
def _uuid_mariadb(_element: _random_uuid, _compiler: SQLCompiler, **_: object) -> str:
    return "(uuid())"


NUMBER: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT: Final = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mariadb")
BYTES: Final = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mariadb")
UUID: Final = (
    sa.Text()
    .with_variant(postgresql.UUID(as_uuid=False), "postgresql")
    .with_variant(sa.CHAR(36), "mariadb")
)
NAME: Final = Name()
ID: Final = Name(collation="C")
"""Ids need no language's rules, and sort faster without them."""

LENGTHS: Final = (
    f"octet_length(partition_key) <= {MAX_NAME_BYTES} AND octet_length(source) <= {MAX_NAME_BYTES}"
)
LENGTHS_SQLITE: Final = (
    f"length(CAST(partition_key AS BLOB)) <= {MAX_NAME_BYTES}"
    f" AND length(CAST(source AS BLOB)) <= {MAX_NAME_BYTES}"
)

EXACT: Final[dict[str, Any]] = {
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_nopad_bin",
}
"""Options of a table: text is equal only if its bytes are, trailing spaces included."""
INNODB: Final[dict[str, Any]] = {"mariadb_engine": "InnoDB", **EXACT}

metadata = sa.MetaData()


def _has_transactions(*_: Any, dialect: Dialect, **__: Any) -> bool:
    """Tell whether a database has ids of transactions, or has to look as if it had."""
    return dialect.name != "mariadb"


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
        Xid8().with_variant(sa.Text(), "sqlite").with_variant(sa.CHAR(20), "mariadb"),
        server_default=_transaction_id(),
    ),
    sa.Column("seq", NUMBER, sa.Identity(always=True, cache=1), primary_key=True),
    sa.Column("id", UUID, nullable=False, server_default=_random_uuid()),
    sa.Column("source", TEXT),
    sa.Column("type", TEXT, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.Column("subject", TEXT),
    sa.Column("partition_key", TEXT),
    sa.Column("topic", TEXT),
    sa.Column("time", clock.Timestamp, nullable=False, server_default=clock.now()),
    sa.Column("content_type", TEXT, nullable=False, server_default=sa.text("'application/json'")),
    sa.Column("data", BYTES, nullable=False),
    sa.Column("headers", JsonObject, nullable=False, server_default=sa.text("'{}'")),
    sa.CheckConstraint("type <> '' AND version >= 1", name="outbox_event_attributes"),
    # Of a longer one no dead letter could be written, which would stop every relay.
    sa.CheckConstraint(LENGTHS, name="outbox_event_lengths").ddl_if(dialect="postgresql"),
    sa.CheckConstraint(LENGTHS, name="outbox_event_lengths").ddl_if(dialect="mariadb"),
    sa.CheckConstraint(LENGTHS_SQLITE, name="outbox_event_lengths").ddl_if(dialect="sqlite"),
    # What Python's datetime cannot hold would stop every relay.
    sa.CheckConstraint(
        "time > '0001-01-02 00:00:00+00' AND time < '9999-12-31 00:00:00+00'",
        name="outbox_event_time",
    ).ddl_if(dialect="postgresql"),
    sa.CheckConstraint(
        "time > '0001-01-02 00:00:00' AND time < '9999-12-31 00:00:00'", name="outbox_event_time"
    ).ddl_if(dialect="mariadb"),
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
    sa.CheckConstraint(
        "json_valid(headers) AND json_type(headers) = 'OBJECT'", name="outbox_event_headers"
    ).ddl_if(dialect="mariadb"),
    # On SQLite, where Alembic would miss it, it is there and always empty.
    sa.Index(
        "outbox_event_transaction",
        "transaction_id",
        "seq",
        sqlite_where=sa.text("transaction_id IS NOT NULL"),
    ).ddl_if(callable_=_has_transactions),
    sqlite_autoincrement=True,  # a number is never given twice, deleted rows included
    **INNODB,
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
    # table is unlogged, or in memory on MariaDB, where each restart does: what a relay remembers
    # of an older incarnation is then not trusted.
    "outbox_incarnation",
    metadata,
    sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("id", UUID, nullable=False, server_default=_random_uuid()),
    sa.CheckConstraint("singleton", name="outbox_incarnation_one"),
    mariadb_engine="MEMORY",
    **EXACT,
)
_after_create(outbox_incarnation, "ALTER TABLE outbox_incarnation SET UNLOGGED")

outbox_checkpoint = sa.Table(
    "outbox_checkpoint",
    metadata,
    sa.Column("route", NAME, primary_key=True),
    # Names the route beyond this database: a broker tells by it the relays of one route apart
    # from those of a route that is called the same elsewhere.
    sa.Column("identity", UUID, nullable=False, server_default=_random_uuid()),
    sa.Column("position", JsonObject),  # null: not started
    sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("token", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("holder", TEXT),
    sa.Column("expires_at", clock.Timestamp),  # null: nobody holds the lease
    sa.Column("advanced_at", clock.Timestamp),
    sa.Column("error", TEXT),  # why the route stands still; null while it does not
    sa.Column("error_at", clock.Timestamp),
    **INNODB,
)

outbox_dead_letter = sa.Table(
    "outbox_dead_letter",
    metadata,
    sa.Column("id", NUMBER, sa.Identity(), primary_key=True),
    sa.Column("stage", NAME, nullable=False),  # "relay" or "consumer"
    sa.Column("owner", NAME, nullable=False),  # the route or the consumer
    sa.Column("status", TEXT, nullable=False),  # see `outbox.dead_letter`
    sa.Column("reason", TEXT, nullable=False),
    sa.Column("attempt_count", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.Column("first_failed_at", clock.Timestamp, nullable=False, server_default=clock.now()),
    sa.Column("last_failed_at", clock.Timestamp, nullable=False, server_default=clock.now()),
    sa.Column("resolved_at", clock.Timestamp),
    sa.Column("note", TEXT),  # why it was discarded
    sa.Column("place", TEXT),  # where a consumer found it: topic[partition]@offset
    sa.Column("event_id", ID, nullable=False),
    sa.Column("source", ID, nullable=False),
    sa.Column("type", TEXT),  # null, like the rest below, where it could not be decoded
    sa.Column("version", sa.Integer),
    sa.Column("subject", TEXT),
    sa.Column("partition_key", NAME),
    sa.Column("topic", TEXT),
    sa.Column("time", clock.Timestamp),
    sa.Column("content_type", TEXT),
    sa.Column("data", BYTES, nullable=False),
    sa.Column("headers", JsonObject, nullable=False),
    sa.Column("sequence", NUMBER),
    sa.UniqueConstraint("stage", "owner", "source", "event_id", name="outbox_dead_letter_event"),
    sqlite_autoincrement=True,
    **INNODB,
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
    sa.Column("consumer", ID, primary_key=True),
    sa.Column("source", ID, primary_key=True),
    sa.Column("event_id", ID, primary_key=True),
    sa.Column("processed_at", clock.Timestamp, nullable=False, server_default=clock.now()),
    **INNODB,
)
