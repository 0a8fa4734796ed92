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
from sqlalchemy.dialects import postgresql

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

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
UUID = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")
C_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TIME = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
JSON = postgresql.JSONB().with_variant(sa.Text(), "sqlite")

RANDOM_UUID_SQLITE = (
    "(lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' ||"
    " substr(hex(randomblob(2)), 2) || '-' || substr('89ab', 1 + (abs(random()) % 4), 1) ||"
    " substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))"
)

GUARD = """\
ALTER TABLE outbox_event ADD CONSTRAINT outbox_event_own CHECK (
    (transaction_id = pg_current_xact_id() AND seq = currval('outbox_event_seq_seq')) IS TRUE
) NOT VALID"""


class Xid8(sa.types.UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Name the type in DDL."""
        return "xid8"


def is_sqlite() -> bool:
    """Tell which of the two databases it is."""
    return op.get_context().dialect.name == "sqlite"


def random_uuid() -> sa.TextClause:
    """Return the default of an id."""
    return sa.text(RANDOM_UUID_SQLITE if is_sqlite() else "gen_random_uuid()")


def now() -> sa.TextClause:
    """Return the default of a time."""
    return sa.text(
        "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))" if is_sqlite() else "clock_timestamp()"
    )


def upgrade() -> None:
    """Create every table."""
    refuse_foreign_tables()
    create_event()
    create_incarnation()
    create_checkpoint()
    create_dead_letter()
    create_inbox()


def downgrade() -> None:
    """Drop every table, with all events, positions and dead letters."""
    for table in TABLES:
        op.drop_table(table)


def refuse_foreign_tables() -> None:
    """Raise where the tables are there, but were not made by these migrations."""
    if op.get_context().as_sql:
        return
    found = [table for table in TABLES if sa.inspect(op.get_bind()).has_table(table)]
    if found:
        raise ConfigurationError(
            f"this database already has {', '.join(found)}, which `outbox migrate` did not make:"
            " if the application's own migrations did, upgrade by those; otherwise remove these"
            " tables first"
        )


def create_event() -> None:
    """Create the outbox."""
    op.create_table(
        "outbox_event",
        sa.Column(
            "transaction_id",
            Xid8().with_variant(sa.Text(), "sqlite"),
            server_default=sa.text("NULL" if is_sqlite() else "pg_current_xact_id()"),
        ),
        sa.Column("seq", NUMBER, sa.Identity(always=True, cache=1), primary_key=True),
        sa.Column("id", UUID, nullable=False, server_default=random_uuid()),
        sa.Column("source", sa.Text),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("subject", sa.Text),
        sa.Column("partition_key", sa.Text),
        sa.Column("topic", sa.Text),
        sa.Column("time", TIME, nullable=False, server_default=now()),
        sa.Column(
            "content_type", sa.Text, nullable=False, server_default=sa.text("'application/json'")
        ),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("headers", JSON, nullable=False, server_default=sa.text("'{}'")),
        *event_checks(),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "outbox_event_transaction",
        "outbox_event",
        ["transaction_id", "seq"],
        sqlite_where=sa.text("transaction_id IS NOT NULL"),
    )
    if not is_sqlite():
        op.execute(GUARD)


def event_checks() -> list[sa.CheckConstraint]:
    """Return what a row of the outbox has to fulfil."""
    attributes = sa.CheckConstraint("type <> '' AND version >= 1", name="outbox_event_attributes")
    if is_sqlite():
        return [
            attributes,
            sa.CheckConstraint(
                "length(CAST(partition_key AS BLOB)) <= 1000"
                " AND length(CAST(source AS BLOB)) <= 1000",
                name="outbox_event_lengths",
            ),
            sa.CheckConstraint(
                "julianday(time) IS NOT NULL AND time GLOB"
                " '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*'",
                name="outbox_event_time",
            ),
            sa.CheckConstraint("typeof(version) = 'integer'", name="outbox_event_version"),
            sa.CheckConstraint(
                "json_valid(headers) AND json_type(headers) = 'object'",
                name="outbox_event_headers",
            ),
        ]
    return [
        attributes,
        sa.CheckConstraint(
            "octet_length(partition_key) <= 1000 AND octet_length(source) <= 1000",
            name="outbox_event_lengths",
        ),
        sa.CheckConstraint(
            "time > '0001-01-02 00:00:00+00' AND time < '9999-12-31 00:00:00+00'",
            name="outbox_event_time",
        ),
        sa.CheckConstraint("jsonb_typeof(headers) = 'object'", name="outbox_event_headers"),
    ]


def create_incarnation() -> None:
    """Create the table that a crash empties."""
    op.create_table(
        "outbox_incarnation",
        sa.Column("singleton", sa.Boolean, primary_key=True, server_default=sa.true()),
        sa.Column("id", UUID, nullable=False, server_default=random_uuid()),
        sa.CheckConstraint("singleton", name="outbox_incarnation_one"),
    )
    if not is_sqlite():
        op.execute("ALTER TABLE outbox_incarnation SET UNLOGGED")


def create_checkpoint() -> None:
    """Create the table of positions and leases."""
    op.create_table(
        "outbox_checkpoint",
        sa.Column("route", sa.Text, primary_key=True),
        sa.Column("identity", UUID, nullable=False, server_default=random_uuid()),
        sa.Column("position", JSON),
        sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("token", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("holder", sa.Text),
        sa.Column("expires_at", TIME),
        sa.Column("advanced_at", TIME),
        sa.Column("error", sa.Text),
        sa.Column("error_at", TIME),
    )


def create_dead_letter() -> None:
    """Create the table of events given up."""
    unresolved: dict[str, Any] = {"postgresql_where": sa.text("resolved_at IS NULL")}
    unresolved["sqlite_where"] = unresolved["postgresql_where"]
    op.create_table(
        "outbox_dead_letter",
        sa.Column("id", NUMBER, sa.Identity(), primary_key=True),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempt_count", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("first_failed_at", TIME, nullable=False, server_default=now()),
        sa.Column("last_failed_at", TIME, nullable=False, server_default=now()),
        sa.Column("resolved_at", TIME),
        sa.Column("note", sa.Text),
        sa.Column("place", sa.Text),
        sa.Column("event_id", C_TEXT, nullable=False),
        sa.Column("source", C_TEXT, nullable=False),
        sa.Column("type", sa.Text),
        sa.Column("version", sa.Integer),
        sa.Column("subject", sa.Text),
        sa.Column("partition_key", sa.Text),
        sa.Column("topic", sa.Text),
        sa.Column("time", TIME),
        sa.Column("content_type", sa.Text),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("headers", JSON, nullable=False),
        sa.Column("sequence", NUMBER),
        sa.UniqueConstraint(
            "stage", "owner", "source", "event_id", name="outbox_dead_letter_event"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "outbox_dead_letter_unresolved",
        "outbox_dead_letter",
        ["stage", "owner", "partition_key", "id"],
        **unresolved,
    )


def create_inbox() -> None:
    """Create the table of what each consumer has handled."""
    op.create_table(
        "outbox_inbox",
        sa.Column("consumer", C_TEXT, primary_key=True),
        sa.Column("source", C_TEXT, primary_key=True),
        sa.Column("event_id", C_TEXT, primary_key=True),
        sa.Column("processed_at", TIME, nullable=False, server_default=now()),
    )
