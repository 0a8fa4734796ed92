"""Create the outbox tables.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from alembic import op

from outbox.table import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    metadata.create_all(op.get_bind(), checkfirst=False)


def downgrade() -> None:
    """Drop every table, with all events, positions and dead letters."""
    metadata.drop_all(op.get_bind(), checkfirst=False)
