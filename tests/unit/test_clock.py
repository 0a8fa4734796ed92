"""The database's clock in statements."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import CacheStats

from outbox.clock import now, now_plus


@pytest.mark.parametrize("asking", [now, lambda: now_plus(3.0)])
def test_a_statement_that_asks_the_server_is_compiled_once(asking: type[now]) -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        found = [connection.execute(sa.select(asking())).context for _ in range(2)]
    engine.dispose()
    assert [each.cache_hit for each in found] == [CacheStats.CACHE_MISS, CacheStats.CACHE_HIT]


def test_seconds_may_come_with_each_execution() -> None:
    engine = sa.create_engine("sqlite://")
    query = sa.select(now_plus(sa.bindparam("seconds", type_=sa.Float)))
    with engine.connect() as connection:
        early, late = (connection.scalar(query, {"seconds": each}) for each in (0.0, 60.0))
    engine.dispose()
    assert early is not None
    assert late is not None
    assert 59 < (late - early).total_seconds() < 62
