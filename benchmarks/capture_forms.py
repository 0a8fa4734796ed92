"""What the capture costs on PostgreSQL: its index at the insert, its pages at a million rows.

    python -m benchmarks.capture_forms

It starts a server of its own. Open transactions are prepared ones, which need no connection.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa

from outbox.migration import upgrade
from relay.capture import Capture, open_capture
from tools.servers import PostgresServer, postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Connection = psycopg.Connection[Any]

PAGE = 5_000
FILL = """
INSERT INTO outbox_event (type, source, partition_key, data, headers)
SELECT 'bench.happened', '/bench', 'k' || i %% 1000, convert_to(repeat('x', 200), 'UTF8'),
       '{"correlationid": "c-1", "actor": "user:42"}'
  FROM generate_series(1, %s) AS i
"""
ONE = "INSERT INTO outbox_event (type, data) VALUES ('bench.happened', '')"
DROP = "DROP INDEX IF EXISTS outbox_event_transaction"
FORMS = {
    "no index": "",
    "(transaction_id)": "(transaction_id)",
    "(transaction_id, seq)": "(transaction_id, seq)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with postgres(settings={"max_prepared_transactions": "1000", "autovacuum": "off"}) as server:
        upgrade(server.url())
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            measure_index(connection)
            measure_pages(server, connection, rows)


def measure_index(connection: Connection) -> None:
    """Alternate between the forms, and take the best of five: the machine is shared."""
    print(f"{'index':24}{'WAL a row':>12}{'bulk':>16}{'one a transaction':>22}")
    found: dict[str, list[tuple[float, float, float]]] = {form: [] for form in FORMS}
    for _ in range(5):
        for form, columns in FORMS.items():
            connection.execute("TRUNCATE outbox_event")
            connection.execute(DROP)
            if columns:
                connection.execute(
                    f"CREATE INDEX outbox_event_transaction ON outbox_event {columns}".encode()
                )
            found[form].append(insert(connection))
    for form, measured in found.items():
        wal, bulk, single = (min(column) for column in zip(*measured, strict=True))
        print(f"{form:24}{wal:>10.0f} B{bulk:>10.2f} us/row{single:>16.0f} us/row")


def insert(connection: Connection) -> tuple[float, float, float]:
    """Return bytes of WAL a row, and microseconds a row of both ways."""
    bulk, single = 100_000, 3_000
    connection.execute("CHECKPOINT")
    before = lsn(connection)
    in_bulk = timed(lambda: connection.execute(FILL.encode(), (bulk,)))
    wal = (lsn(connection) - before) / bulk
    one_by_one = timed(lambda: [connection.execute(ONE.encode()) for _ in range(single)])
    return wal, in_bulk / bulk * 1e6, one_by_one / single * 1e6


def lsn(connection: Connection) -> int:
    row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    return int(row[0]) if row else 0


def measure_pages(server: PostgresServer, connection: Connection, rows: int) -> None:
    connection.execute("TRUNCATE outbox_event RESTART IDENTITY")
    connection.execute(DROP)
    connection.execute("CREATE INDEX outbox_event_transaction ON outbox_event(transaction_id, seq)")
    capture = open_capture(sa.create_engine(server.url()))
    stood_still = capture.beginning()
    for _ in range(10):
        connection.execute(FILL.encode(), (rows // 10,))
    connection.execute("VACUUM ANALYZE outbox_event")
    first = timed(lambda: capture.next_page(stood_still, PAGE))
    print(f"\nfirst page of a route that stood still for {rows:,} rows: {first * 1e3:.1f} ms")
    took = min(timed(lambda: read_all(capture, stood_still)) for _ in range(3))
    print(f"reading all of them: {rows / took:,.0f} rows/s\n")
    print(f"{'open transactions':>18}{'idle page':>14}{f'{PAGE} rows':>14}{'once they end':>16}")
    for count in (0, 10, 1000):
        print(
            f"{count:>18}"
            + "".join(f"{x * 1e3:>11.2f} ms" for x in pages(connection, capture, count))
        )
    capture.close()


def pages(connection: Connection, capture: Capture, count: int) -> Iterable[float]:
    """Time an idle page, a full one, and the one that finds what the open ones had written."""
    names = [f"bench-{number}" for number in range(count)]
    for name in names:
        connection.execute("BEGIN")
        connection.execute(ONE.encode())
        connection.execute(f"PREPARE TRANSACTION '{name}'".encode())
    connection.execute(ONE.encode())
    idle = capture.now()
    yield median(lambda: capture.next_page(idle, PAGE))
    connection.execute(FILL.encode(), (PAGE,))
    yield median(lambda: capture.next_page(idle, PAGE))
    position = capture.next_page(idle, PAGE).position()
    for name in names:
        connection.execute(f"COMMIT PREPARED '{name}'".encode())
    yield median(lambda: capture.next_page(position, PAGE))


def read_all(capture: Capture, position: Any) -> None:
    page = capture.next_page(position, PAGE)
    while not page.is_last:
        page = capture.next_page(page.position(), PAGE)


def median(action: Callable[[], object]) -> float:
    return statistics.median(timed(action) for _ in range(51))


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
