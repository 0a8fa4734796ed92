"""Whole partitions come and go: made ahead of the writers, dropped once they are delivered and old.

A partition goes in three steps, and a relay that dies between two of them leaves what the next pass
finishes:

1. Under a lock that proves that no open transaction has written to it, it is looked at: its numbers
   are below every floor, its rows visible in every snapshot, its last event is old enough.
2. It is detached CONCURRENTLY, which no writer and no reader notices. That cannot be in a
   transaction; broken off, it is pending, and is finalised at the next pass.
3. Every transaction that knew it as a partition is over by now. Should one of them have written to
   it between 1 and 2, it is attached again; otherwise it is dropped.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from outbox import clock, partitions
from outbox.partitions import AHEAD, SHORT
from outbox.table import outbox_event
from relay.database import autocommit, transaction
from relay.delivered import Held
from relay.pooler import Pooling, find_pooling
from relay.sql import statements

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from outbox.partitions import Partition
    from relay.delivered import Delivered
    from relay.expiry import Events

log = logging.getLogger(__name__)

_SQL: Final = {name: sa.text(text.decode()) for name, text in statements("retention").items()}


def make_ahead(engine: sa.Engine) -> None:
    """Make the partitions that are missing ahead of the writers.

    Raises `ConfigurationError` where the role may not, and logs how short of them it is.
    """
    with transaction(engine) as connection:
        found = partitions.partitions(connection)
        count = partitions.ahead_count(connection, found)
    if count < SHORT:
        facts = {"ahead": count, "wanted": AHEAD}
        log.error("partitions run out: without one ahead producers fail", extra=facts)
    if count >= AHEAD:
        return
    with transaction(engine) as connection:
        connection.execute(_SQL["waiting_shortly"])
        made = partitions.extend(connection)
    log.info("partitions made", extra={"count": len(made), "last": made[-1].name})


def rotate(
    engine: sa.Engine, events: Events, stopping: threading.Event, renew: Callable[[], None]
) -> tuple[int, str | None]:
    """Drop what is delivered and old; return how many, and why others stay that are old enough.

    `renew` is called before each one, and raises where another relay has the lease by now.
    """
    dropped = _finish(engine, events)
    while not stopping.is_set():
        renew()
        with transaction(engine) as connection:
            first = partitions.partitions(connection)[0]
            connection.execute(_SQL["waiting_shortly"])
            reason = _kept(connection, events, first)
        if reason is not None:
            return dropped, reason or None
        if find_pooling(engine) is Pooling.TRANSACTION:
            return dropped, (
                "no partition is detached through a pooler in transaction mode, which would set its"
                " time-out for somebody else: run `outbox retention` with a database_url that leads"
                " to the server itself"
            )
        _detach(engine, first, "CONCURRENTLY")
        dropped += _finish(engine, events)
    return dropped, None


def count(engine: sa.Engine, events: Events) -> tuple[int, str | None]:
    """Return how many partitions `rotate` would drop now, and why others stay."""
    with transaction(engine) as connection:
        connection.execute(_SQL["waiting_shortly"])
        for number, partition in enumerate(partitions.partitions(connection)):
            reason = _kept(connection, events, partition)
            if reason is not None:
                return number, reason or None
    return 0, None


def _kept(connection: sa.Connection, events: Events, partition: Partition) -> str | None:
    """Return why a partition stays: '' where it is young; None where it may go."""
    found = events.delivered(connection)
    if isinstance(found, Held):
        return found.reason
    is_old = connection.scalar(
        sa.select(outbox_event.c.time < clock.now_plus(-events.age.total_seconds()))
        .where(outbox_event.c.seq >= partition.lower, outbox_event.c.seq < partition.upper)
        .order_by(outbox_event.c.seq.desc())
        .limit(1)
    )
    if is_old is False:
        return ""
    if partition.upper > found.floor + 1:
        return events.held(connection, found) or ""
    connection.exec_driver_sql(f"LOCK TABLE {partition.name} IN SHARE MODE")
    if _has_undelivered(connection, found, partition):
        return "an event that committed late is still to be delivered"
    return None


def _has_undelivered(connection: sa.Connection, found: Delivered, partition: Partition) -> bool:
    """Look at the rows whose transactions a snapshot may not have seen; an index leads there."""
    return any(
        connection.scalar(
            sa.text(
                f"SELECT EXISTS (SELECT FROM {partition.name}"  # noqa: S608  # from the catalog
                " WHERE transaction_id >= pg_snapshot_xmin(CAST(:snapshot AS pg_snapshot))"
                " AND NOT pg_visible_in_snapshot(transaction_id, CAST(:snapshot AS pg_snapshot)))"
            ),
            {"snapshot": snapshot},
        )
        for snapshot in found.snapshots
    )


def _detach(engine: sa.Engine, partition: Partition, how: str) -> None:
    """Detach it outside any transaction; waits a little for those that know it as a partition."""
    with autocommit(engine) as connection:
        connection.exec_driver_sql("SET lock_timeout = '2s'")
        try:
            connection.exec_driver_sql(
                f"ALTER TABLE outbox_event DETACH PARTITION {partition.name} {how}"
            )
        finally:
            connection.exec_driver_sql("RESET lock_timeout")


def _finish(engine: sa.Engine, events: Events) -> int:
    """Finish what a pass has left behind, this one or an earlier one; return what was dropped."""
    with transaction(engine) as connection:
        pending = [each for each in partitions.partitions(connection) if each.is_pending]
    for partition in pending:
        _detach(engine, partition, "FINALIZE")
    dropped = 0
    with transaction(engine) as connection:
        connection.execute(_SQL["waiting_shortly"])
        for partition in partitions.detached(connection):
            facts = {"partition": partition.name}
            found = events.delivered(connection)
            if isinstance(found, Held):
                break
            is_past = partition.upper <= found.floor + 1
            if not is_past or _has_undelivered(connection, found, partition):
                partitions.attach(connection, partition)
                log.warning("partition attached again", extra=facts)
                continue
            connection.exec_driver_sql(f"DROP TABLE {partition.name}")
            log.info("partition dropped", extra=facts)
            dropped += 1
    return dropped
