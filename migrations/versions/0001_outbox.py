"""Create the outbox tables.

Revision ID: 0001
Revises:

It says again what `outbox/table.py` said when it was written, and never changes: later changes of
the tables are later revisions.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

from outbox.errors import ConfigurationError

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "outbox_event",
    "outbox_incarnation",
    "outbox_checkpoint",
    "outbox_dead_letter",
    "outbox_inbox",
)

MYSQL = ("mysql", "mariadb")
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.Text().with_variant(mysql.VARBINARY(1000), *MYSQL)
C_NAME = NAME.with_variant(sa.Text(collation="C"), "postgresql")
STAGE = sa.Text().with_variant(mysql.VARBINARY(16), *MYSQL)
DATA = sa.LargeBinary().with_variant(mysql.LONGBLOB(), *MYSQL)
TIME = (
    sa.DateTime(timezone=True)
    .with_variant(sa.Text(), "sqlite")
    .with_variant(mysql.DATETIME(fsp=6), *MYSQL)
)

INNODB: dict[str, Any] = {
    f"{name}_{option}": value
    for name in MYSQL
    for option, value in {"engine": "InnoDB", "charset": "utf8mb4", "row_format": "DYNAMIC"}.items()
}
IN_MEMORY: dict[str, Any] = {f"{name}_engine": "MEMORY" for name in MYSQL}

RANDOM_UUID_SQLITE = (
    "(lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' ||"
    " substr(hex(randomblob(2)), 2) || '-' || substr('89ab', 1 + (abs(random()) % 4), 1) ||"
    " substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))"
)

GUARD = """\
ALTER TABLE outbox_event ADD CONSTRAINT outbox_event_own CHECK (
    (transaction_id = pg_current_xact_id() AND seq = currval('outbox_event_seq_seq')) IS TRUE
) NOT VALID"""


DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
TIME_SQLITE = (
    "julianday(time) IS NOT NULL AND instr(time, char(0)) = 0"
    " AND time >= '0001-01-02' AND time < '9999-12-31'"
    f" AND (time GLOB '{DAY}[ T][0-2][0-9]:*' OR time GLOB '{DAY}')"
    " AND substr(time, 12, 2) < '24' AND substr(time, 12) NOT GLOB '*[^0-9:.Zz+-]*'"
    " AND (substr(time, 9, 2) < '29' OR time NOT GLOB '0300-02*'"
    " AND date(julianday(substr(time, 1, 10))) IS substr(time, 1, 10))"
)
HEADERS_MYSQL = (
    r"json_valid(headers) AND json_type(headers) = 'OBJECT' AND headers REGEXP '^("
    r'[^"0-9\\\\-]|'
    r'"[^"\\\\]*+(\\\\(["\\\\/bfnrt]|u(?!0000))[^"\\\\]*+)*+"|'
    r"-?(0|[1-9][0-9]{0,199})(\\.[0-9]{1,199})?([eE][+-]?[0-9]{1,2})?(?![0-9.eE+-])"
    r")*+$'"
)


class Xid8(sa.types.UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Name the type in DDL."""
        return "xid8"


def kind() -> str:
    """Tell which kind of database it is: `postgresql`, `sqlite` or `mysql`."""
    name = op.get_context().dialect.name
    return "mysql" if name in MYSQL else name


def exact() -> dict[str, str]:
    """Return the character set of MariaDB's or MySQL's text, and how it is compared."""
    is_mariadb = getattr(op.get_context().dialect, "is_mariadb", False)
    collation = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
    return {"charset": "utf8mb4", "collation": collation}


def text() -> sa.types.TypeEngine[str]:
    """Return the type of text."""
    return sa.Text().with_variant(mysql.LONGTEXT(**exact()), *MYSQL)


def json() -> sa.types.TypeEngine[Any]:
    """Return the type of a JSON object."""
    return postgresql.JSONB() if kind() == "postgresql" else text()


def uuid() -> sa.types.TypeEngine[str]:
    """Return the type of an id."""
    made = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")
    return made.with_variant(mysql.VARCHAR(40, **exact()), *MYSQL)


def random_uuid() -> sa.TextClause:
    """Return the default of an id."""
    functions = {"postgresql": "gen_random_uuid()", "sqlite": RANDOM_UUID_SQLITE}
    return sa.text(functions.get(kind(), "(uuid())"))


def now() -> sa.TextClause:
    """Return the default of a time."""
    functions = {
        "postgresql": "clock_timestamp()",
        "sqlite": "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
    }
    return sa.text(functions.get(kind(), "(UTC_TIMESTAMP(6))"))


def upgrade() -> None:
    """Create every table."""
    refuse_foreign_tables()
    try:
        create_event()
        create_incarnation()
        create_checkpoint()
        create_dead_letter()
        create_inbox()
    except sa.exc.DBAPIError:
        if kind() == "mysql":
            drop_what_is_there()
        raise


def drop_what_is_there() -> None:
    """Take back what was created, because each statement of MariaDB commits by itself."""
    for table in TABLES:
        op.execute(f"DROP TABLE IF EXISTS {table}")


def downgrade() -> None:
    """Drop every table, with all events, positions and dead letters."""
    for table in TABLES:
        op.drop_table(table)


def refuse_foreign_tables() -> None:
    """Raise where the tables are there, but were not made by these migrations."""
    if op.get_context().as_sql:
        return
    found = [table for table in TABLES if sa.inspect(op.get_bind()).has_table(table)]
    if not found:
        return
    others = "the application's own migrations did, upgrade by those; otherwise"
    if kind() == "mysql":
        others += ", or where an `outbox migrate` was killed,"
    raise ConfigurationError(
        f"this database already has {', '.join(found)}, which `outbox migrate` did not make: if"
        f" {others} remove these tables first"
    )


def create_event() -> None:
    """Create the outbox."""
    op.create_table(
        "outbox_event",
        sa.Column(
            "transaction_id",
            Xid8()
            .with_variant(sa.Text(), "sqlite")
            .with_variant(mysql.BIGINT(unsigned=True), *MYSQL),
            server_default=sa.text("pg_current_xact_id()" if kind() == "postgresql" else "NULL"),
        ),
        sa.Column("seq", NUMBER, sa.Identity(always=True, cache=1), primary_key=True),
        sa.Column("id", uuid(), nullable=False, server_default=random_uuid()),
        sa.Column("source", text()),
        sa.Column("type", text(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("subject", text()),
        sa.Column("partition_key", text()),
        sa.Column("topic", text()),
        sa.Column("time", TIME, nullable=False, server_default=now()),
        sa.Column(
            "content_type", text(), nullable=False, server_default=sa.text("('application/json')")
        ),
        sa.Column("data", DATA, nullable=False),
        sa.Column("headers", json(), nullable=False, server_default=sa.text("('{}')")),
        *event_checks(),
        **INNODB,
        sqlite_autoincrement=True,
    )
    if kind() != "mysql":
        op.create_index(
            "outbox_event_transaction",
            "outbox_event",
            ["transaction_id", "seq"],
            sqlite_where=sa.text("transaction_id IS NOT NULL"),
        )
    if kind() == "postgresql":
        op.execute(GUARD)


def event_checks() -> list[sa.CheckConstraint]:
    """Return what a row of the outbox has to fulfil."""
    lengths = "octet_length(partition_key) <= 1000 AND octet_length(source) <= 1000"
    checks = {"outbox_event_attributes": "type <> '' AND version >= 1"}
    match kind():
        case "postgresql":
            checks["outbox_event_lengths"] = lengths
            checks["outbox_event_time"] = (
                "time > '0001-01-02 00:00:00+00' AND time < '9999-12-31 00:00:00+00'"
            )
            checks["outbox_event_headers"] = "jsonb_typeof(headers) = 'object'"
        case "sqlite":
            checks["outbox_event_lengths"] = (
                "length(CAST(partition_key AS BLOB)) <= 1000"
                " AND length(CAST(source AS BLOB)) <= 1000"
            )
            checks["outbox_event_time"] = TIME_SQLITE
            checks["outbox_event_version"] = "typeof(version) = 'integer'"
            checks["outbox_event_headers"] = (
                "json_valid(headers) AND json_type(headers) = 'object'"
                " AND instr(headers, char(0)) = 0"
            )
            checks["outbox_event_text"] = (
                "'blob' NOT IN (typeof(id), typeof(source), typeof(type), typeof(subject),"
                " typeof(partition_key), typeof(topic), typeof(content_type), typeof(headers))"
            )
        case _:
            checks["outbox_event_lengths"] = lengths
            checks["outbox_event_time"] = (
                "time > '0001-01-02 00:00:00' AND time < '9999-12-31 00:00:00'"
            )
            checks["outbox_event_id"] = (
                "id REGEXP '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'"
            )
            checks["outbox_event_headers"] = HEADERS_MYSQL
    return [sa.CheckConstraint(check, name=name) for name, check in checks.items()]


def create_incarnation() -> None:
    """Create the table that a crash empties."""
    op.create_table(
        "outbox_incarnation",
        sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
        sa.Column("id", uuid(), nullable=False, server_default=random_uuid()),
        sa.CheckConstraint("singleton", name="outbox_incarnation_one"),
        **IN_MEMORY,
    )
    if kind() == "postgresql":
        op.execute("ALTER TABLE outbox_incarnation SET UNLOGGED")


def create_checkpoint() -> None:
    """Create the table of positions and leases."""
    op.create_table(
        "outbox_checkpoint",
        sa.Column("route", NAME, primary_key=True),
        sa.Column("identity", uuid(), nullable=False, server_default=random_uuid()),
        sa.Column("position", json()),
        sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("token", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("holder", text()),
        sa.Column("expires_at", TIME),
        sa.Column("advanced_at", TIME),
        sa.Column("error", text()),
        sa.Column("error_at", TIME),
        **INNODB,
    )


def create_dead_letter() -> None:
    """Create the table of events given up."""
    unresolved: dict[str, Any] = {"postgresql_where": sa.text("resolved_at IS NULL")}
    unresolved["sqlite_where"] = unresolved["postgresql_where"]
    op.create_table(
        "outbox_dead_letter",
        sa.Column("id", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("stage", STAGE, nullable=False),
        sa.Column("owner", NAME, nullable=False),
        sa.Column("status", text(), nullable=False),
        sa.Column("reason", text(), nullable=False),
        sa.Column("attempt_count", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("first_failed_at", TIME, nullable=False, server_default=now()),
        sa.Column("last_failed_at", TIME, nullable=False, server_default=now()),
        sa.Column("resolved_at", TIME),
        sa.Column("note", text()),
        sa.Column("place", text()),
        sa.Column("event_id", C_NAME, nullable=False),
        sa.Column("source", C_NAME, nullable=False),
        sa.Column("type", text()),
        sa.Column("version", sa.Integer),
        sa.Column("subject", text()),
        sa.Column("partition_key", NAME),
        sa.Column("topic", text()),
        sa.Column("time", TIME),
        sa.Column("content_type", text()),
        sa.Column("data", DATA, nullable=False),
        sa.Column("headers", json(), nullable=False),
        sa.Column("sequence", NUMBER),
        sa.UniqueConstraint(
            "stage", "owner", "source", "event_id", name="outbox_dead_letter_event"
        ),
        **INNODB,
        sqlite_autoincrement=True,
    )
    op.create_index(
        "outbox_dead_letter_unresolved",
        "outbox_dead_letter",
        ["stage", "owner", "resolved_at", "partition_key", "id"],
        **unresolved,
    )


def create_inbox() -> None:
    """Create the table of what each consumer has handled."""
    op.create_table(
        "outbox_inbox",
        sa.Column("consumer", C_NAME, primary_key=True),
        sa.Column("source", C_NAME, primary_key=True),
        sa.Column("event_id", C_NAME, primary_key=True),
        sa.Column("processed_at", TIME, nullable=False, server_default=now()),
        **INNODB,
    )
