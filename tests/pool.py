"""The check that a test leaves no connection behind."""

from __future__ import annotations

import sqlalchemy as sa


def assert_all_given_back(engine: sa.Engine) -> None:
    """Dispose of the engine; fail if one of its connections is still checked out."""
    pool = engine.pool
    assert isinstance(pool, sa.QueuePool)
    left = pool.checkedout()
    engine.dispose()
    assert left == 0, f"{left} connections were not given back to the pool"
