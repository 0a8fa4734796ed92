"""Create the audit trail.

Revision ID: 0002
Revises: 0001

It adds a table, and nothing of the release before knows it.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from outbox.errors import ConfigurationError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLE = "outbox_audit"

MYSQL = ("mysql", "mariadb")
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.Text().with_variant(mysql.VARBINARY(1000), *MYSQL)
C_NAME = NAME.with_variant(sa.Text(collation="C"), "postgresql")
HASH = sa.LargeBinary().with_variant(mysql.VARBINARY(32), *MYSQL)
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


def kind() -> str:
    """Tell which kind of database it is: `postgresql`, `sqlite` or `mysql`."""
    name = op.get_context().dialect.name
    return "mysql" if name in MYSQL else name


def text() -> sa.types.TypeEngine[str]:
    """Return the type of text, compared exactly on MariaDB and MySQL."""
    is_mariadb = getattr(op.get_context().dialect, "is_mariadb", False)
    collation = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
    exact = mysql.LONGTEXT(charset="utf8mb4", collation=collation)
    return sa.Text().with_variant(exact, *MYSQL)


def now() -> sa.TextClause:
    """Return the default of a time."""
    functions = {
        "postgresql": "clock_timestamp()",
        "sqlite": "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
    }
    return sa.text(functions.get(kind(), "(UTC_TIMESTAMP(6))"))


def upgrade() -> None:
    """Create the table."""
    if not op.get_context().as_sql and sa.inspect(op.get_bind()).has_table(TABLE):
        raise ConfigurationError(
            f"this database already has {TABLE}, which `outbox migrate` did not make: if the"
            " application's own migrations did, upgrade by those; otherwise rename it first"
        )
    try:
        create_audit()
    except sa.exc.DBAPIError:
        if kind() == "mysql":  # each of its statements commits by itself
            op.execute(f"DROP TABLE IF EXISTS {TABLE}")
        raise


def create_audit() -> None:
    """Create the table with its indexes."""
    op.create_table(
        TABLE,
        sa.Column("position", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("event_id", C_NAME, nullable=False),
        sa.Column("source", C_NAME, nullable=False),
        sa.Column("type", text(), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("subject", text()),
        sa.Column("partition_key", NAME),
        sa.Column("actor", text()),
        sa.Column("correlation_id", text()),
        sa.Column("causation_id", text()),
        sa.Column("time", TIME, nullable=False),
        sa.Column("sequence", NUMBER, nullable=False),
        sa.Column("data_digest", HASH, nullable=False),
        sa.Column("previous_hash", HASH, nullable=False),
        sa.Column("hash", HASH, nullable=False),
        sa.Column("recorded_at", TIME, nullable=False, server_default=now()),
        sa.UniqueConstraint("event_id", "source", "sequence", name="outbox_audit_event"),
        sa.CheckConstraint("position >= 1", name="outbox_audit_position"),
        **INNODB,
    )
    op.create_index("outbox_audit_key", TABLE, ["partition_key", "position"])


def downgrade() -> None:
    """Drop the trail, with all of its records."""
    op.drop_table(TABLE)
