"""Create the table of the keys of personal data.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MYSQL = ("mysql", "mariadb")
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
NOW = {
    "postgresql": "clock_timestamp()",
    "sqlite": "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
}


def name(size: int, collation: str | None = None) -> sa.types.TypeEngine[str]:
    """Return the type of text that an index takes."""
    text = sa.Text().with_variant(sa.Text(collation=collation), "postgresql")
    return text.with_variant(mysql.VARBINARY(size), *MYSQL)


def upgrade() -> None:
    """Create it."""
    now = sa.text(NOW.get(op.get_context().dialect.name, "(UTC_TIMESTAMP(6))"))
    op.create_table(
        "outbox_personal_key",
        sa.Column("id", name(32), primary_key=True),
        sa.Column("subject", name(500, "C"), nullable=False),
        sa.Column("retired", name(32), nullable=False, server_default=sa.text("('')")),
        sa.Column("master_key", name(16)),
        sa.Column("wrapped_key", sa.LargeBinary().with_variant(mysql.LONGBLOB(), *MYSQL)),
        sa.Column("created_at", TIME, nullable=False, server_default=now),
        sa.Column("forgotten_at", TIME),
        sa.UniqueConstraint("subject", "retired", name="outbox_personal_key_subject"),
        **INNODB,
    )


def downgrade() -> None:
    """Drop it: nobody can read any personal data from then on."""
    op.drop_table("outbox_personal_key")
