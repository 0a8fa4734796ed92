"""Waits until a session of a database waits for another one's lock."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

WAITING = {
    "postgresql": (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ),
    "mariadb": (
        "SELECT count(*) FROM information_schema.innodb_trx t"
        " JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id"
        " WHERE p.db = DATABASE() AND t.trx_state = 'LOCK WAIT'"
    ),
}


# MariaDB looks anew only where nobody has asked for a tenth of a second.
GAP_SECONDS = {"postgresql": 0.01, "mariadb": 0.15}


def await_waiters(engine: sa.Engine, count: int = 1) -> None:
    """Return once so many sessions wait for a lock."""
    query = sa.text(WAITING[engine.dialect.name])
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            if (connection.scalar(query) or 0) >= count:
                return
        time.sleep(GAP_SECONDS[engine.dialect.name])
    pytest.fail(f"there are not {count} sessions that wait for a lock")
