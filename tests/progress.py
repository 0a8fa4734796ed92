"""How far the only route of a database has come."""

from __future__ import annotations

import sqlalchemy as sa

from outbox.table import outbox_checkpoint


def floor(engine: sa.Engine) -> int:
    """Return up to which number the route has delivered; 0 where it has not begun."""
    with engine.connect() as connection:
        position = connection.scalar(sa.select(outbox_checkpoint.c.position))
        return 0 if position is None else int(position["floor"])
