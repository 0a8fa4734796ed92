"""How fast the audit trail is verified and appended to, beside scripts that do as much by hand.

    python -m tools.servers --postgres --kafka -- python -m benchmarks.audit

Events of 200 bytes are appended in pages, as a relay does, on PostgreSQL and on SQLite. Then the
trail is walked: by the library, by `outbox audit verify` from its start to its end as a process,
and by a script that fetches rows with the driver alone and computes their hashes with the standard
library. The contenders take turns.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import sqlalchemy as sa

from benchmarks.command import add_servers, arguments, described, finish, place_at, started_now
from outbox import migration
from outbox.audit.chain import verified
from outbox.audit.record import Record
from outbox.audit.store import TableChain
from outbox.bench.place import driver_arguments
from outbox.bench.report import Series
from outbox.bench.rounds import taken
from outbox.chunks import in_chunks
from outbox.engine import make_engine
from outbox.envelope import Envelope, new_id
from outbox.table import outbox_audit
from outbox.transport import PUBLISHED
from outbox.transports.audit.publishing import AuditPublisher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from outbox.bench.report import Figures

PAGE: Final = 5_000
TIMEOUT: Final = 60.0
APPENDED: Final = 5
"""Of so many records one is appended in each turn, because that takes longer than to walk."""
NAMES: Final = Record._fields
READ: Final = f"SELECT {', '.join(NAMES)} FROM outbox_audit ORDER BY position"  # noqa: S608  # ours


def measure(url: sa.URL, *, records: int, rounds: int) -> Iterator[Series]:
    """Append to the trail of a database, then walk it; the first turns only warm up."""
    database = url.get_backend_name()
    part = max(records // APPENDED, 1)
    batch = events(records)
    turns = {
        "by hand": partial(_by_hand, url, batch[:part]),
        "route": partial(_appended, url, batch[:part]),
    }
    yield Series(
        kind="audit-append",
        where={"database": database, "records": part},
        rounds=[taken(turns, number) for number in range(rounds + 1)][1:],
        ratios=("records_per_second",),
    )
    # The trail that is walked is the library's own: what is by hand above has no hash of a record.
    _appended(url, batch)
    _vacuumed(url)
    walks: dict[str, Callable[[], int]] = {
        "by hand": partial(_walk_by_hand, url),
        "verify": partial(_walk, url),
        "outbox audit verify": partial(_command, url),
    }
    walked = {name: partial(_walked, walk, records) for name, walk in walks.items()}
    yield Series(
        kind="audit-verify",
        where={"database": database, "records": records},
        rounds=[taken(walked, number) for number in range(rounds + 1)][1:],
        ratios=("records_per_second",),
    )


def events(count: int) -> list[Envelope]:
    """Return events as they come of a business transaction."""
    return [
        Envelope(
            id=new_id(),
            source="/bench",
            type="bench.order.paid",
            time=datetime.now(UTC),
            data=json.dumps({"order_id": n, "pad": "x" * 170}).encode(),
            subject=f"order-{n}",
            partition_key=f"customer-{n % 1000}",
            actor="user:42",
            correlation_id=new_id(),
            sequence=n + 1,
        )
        for n in range(count)
    ]


def _appended(url: sa.URL, batch: Sequence[Envelope]) -> Figures:
    """Append as a relay's route does."""
    _emptied(url)
    with closing(AuditPublisher(url, TIMEOUT)) as publisher:
        started = time.perf_counter()
        for page in in_chunks(batch, PAGE):
            if list(publisher.publish(page)) != [PUBLISHED] * len(page):
                msg = "not all were appended"
                raise RuntimeError(msg)
        return {"records_per_second": len(batch) / (time.perf_counter() - started)}


def _by_hand(url: sa.URL, batch: Sequence[Envelope]) -> Figures:
    """Insert as many rows with a hash each, a page at a time, by the driver's own `executemany`."""
    _emptied(url)
    mark = "%s" if url.get_backend_name() == "postgresql" else "?"
    marks = ", ".join([mark] * len(NAMES))
    insert = f"INSERT INTO outbox_audit ({', '.join(NAMES)}) VALUES ({marks})"  # noqa: S608  # ours
    with closing(_driver(url)) as connection:
        cursor = connection.cursor()
        started = time.perf_counter()
        previous = bytes(32)
        for first in range(0, len(batch), PAGE):
            rows = []
            for position, event in enumerate(batch[first : first + PAGE], first + 1):
                row = (
                    position,
                    event.id,
                    event.source,
                    event.type,
                    event.version,
                    event.subject,
                    event.partition_key,
                    event.actor,
                    event.correlation_id,
                    event.causation_id,
                    event.time.isoformat(),
                    event.sequence,
                    sha256(event.data).digest(),
                    previous,
                )
                previous = _hash(row)
                rows.append((*row, previous))
            cursor.executemany(insert, rows)
            connection.commit()
        return {"records_per_second": len(batch) / (time.perf_counter() - started)}


def _walked(walk: Callable[[], int], records: int) -> Figures:
    started = time.perf_counter()
    if walk() != records:
        msg = "not all records were walked"
        raise RuntimeError(msg)
    return {"records_per_second": records / (time.perf_counter() - started)}


def _walk(url: sa.URL) -> int:
    engine = make_engine(url, "bench", poolclass=sa.NullPool)
    return sum(len(page) for page in verified(TableChain(engine)))


def _command(url: sa.URL) -> int:
    text = url.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-m", "outbox", "audit", "verify", "--json"],
        env={**os.environ, "OUTBOX_DATABASE_URL": text},
        stdout=subprocess.PIPE,
        check=True,
    )
    count: int = json.loads(done.stdout)["records"]
    return count


def _walk_by_hand(url: sa.URL) -> int:
    """Compute each record's hash anew, of JSON with sorted names, and follow the chain."""
    count, previous = 0, bytes(32)
    with closing(_driver(url)) as connection:
        for row in _fetched(connection):
            _hash(row[:-1])
            if row[-2] != previous:
                msg = f"position {row[0]} does not follow"
                raise RuntimeError(msg)
            previous = row[-1]
            count += 1
    return count


def _hash(row: Sequence[Any]) -> bytes:
    record = dict(zip(NAMES, row, strict=False))
    record["data_digest"] = record["data_digest"].hex()
    record["previous_hash"] = record["previous_hash"].hex()
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), default=str)
    return sha256(text.encode()).digest()


def _fetched(connection: Any) -> Iterable[Any]:
    if isinstance(connection, psycopg.Connection):
        cursor = connection.cursor("bench")
        cursor.itersize = PAGE
        cursor.execute(READ)
        return cursor
    found: Iterable[Any] = connection.execute(READ)
    return found


def _driver(url: sa.URL) -> Any:
    if url.get_backend_name() == "postgresql":
        return psycopg.connect(**driver_arguments(url))
    return sqlite3.connect(str(url.database))


def _emptied(url: sa.URL) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.delete(outbox_audit))


def _vacuumed(url: sa.URL) -> None:
    """Let PostgreSQL know what is in the table, as a server does by itself after a while."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    if url.get_backend_name() == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE outbox_audit")


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = arguments(__doc__, rounds=3)
    add_servers(parser)
    parser.add_argument("--records", type=int, default=200_000)
    options = parser.parse_args()
    started_at, size = started_now(), {"records": options.records, "rounds": options.rounds}
    with place_at(parser, options) as place, tempfile.TemporaryDirectory() as folder:
        found = described(place.url)
        series = [*measure(place.url, **size)]
        file = sa.URL.create("sqlite", database=str(Path(folder) / "trail.db"))
        migration.upgrade(file)
        series += measure(file, **size)
    finish("audit", options, series, started_at=started_at, server=found)


if __name__ == "__main__":
    main()
