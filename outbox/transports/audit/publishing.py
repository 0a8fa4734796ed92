"""Appends events to the hash chain, each once, however many relays try.

    append   the head is known ─▶ records behind it ─▶ one INSERT, all or none
    conflict somebody else was there first ─▶ read the head, leave out what is there, append again

Nothing is locked. A position is a primary key, so of two relays that append behind one head one
fails: the chain has no fork; and one insert has positions without a hole or does nothing. The
events themselves are unique as well, so the one that failed finds out what the other has appended.

On PostgreSQL the insert is one statement in a transaction of its own: whatever moment a relay is
frozen at, the server has it whole, or not at all, and holds no lock for it.
"""

from __future__ import annotations

import random
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from outbox.audit.chain import START, Head, extend
from outbox.audit.store import head_of
from outbox.chunks import rows_with
from outbox.dialect import (
    CONFLICT_NUMBERS,
    MISSING_NUMBERS,
    REFUSED_NUMBERS,
    mysql_number,
)
from outbox.engine import is_psycopg, is_pymysql, make_engine
from outbox.errors import DatabaseUnavailableError, DestinationRefusedError, TransientError
from outbox.rows import ID, SEQ, SOURCE, Rows
from outbox.settings import shown
from outbox.table import outbox_audit as audit
from outbox.transport import PUBLISHED, Outcome, Retry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.audit.record import Record
    from outbox.envelope import Envelope
    from outbox.rows import Row

NAME: Final = "outbox audit"
SHARE: Final = 0.8
"""The part of a publish's time-out after which it is given up."""
PAUSE_SECONDS: Final = 0.01
"""The longest pause of whom somebody else was faster than."""
IDLE_SECONDS: Final = 2
"""On MariaDB, where an append may be several statements, a frozen relay holds locks so long."""

_TYPES: Final = {
    "position": "bigint",
    "event_id": "text",
    "source": "text",
    "type": "text",
    "version": "int",
    "subject": "text",
    "partition_key": "text",
    "actor": "text",
    "correlation_id": "text",
    "causation_id": "text",
    "time": "timestamptz",
    "sequence": "bigint",
    "data_digest": "bytea",
    "previous_hash": "bytea",
    "hash": "bytea",
}
_NAMES: Final = ", ".join(_TYPES)
_RECORDS: Final = sa.text(
    f"INSERT INTO outbox_audit ({_NAMES}) SELECT {_NAMES}"  # noqa: S608  # of the constants above
    " FROM json_to_recordset(CAST(CAST(:records AS text) AS json)) AS record"
    f" ({', '.join(f'{name} {type_}' for name, type_ in _TYPES.items())})"
)
_INSERT: Final = sa.insert(audit).inline()
_KNOWN: Final = sa.select(audit.c.event_id, audit.c.source, audit.c.sequence)
_RAISED: Final = "P0001"
_RAISED_NUMBERS: Final = frozenset({1644, 3819, 4025})
"""What a trigger raises, and constraints of MySQL and MariaDB."""
_WRONG: Final = ("42", "3F", "28", "3D")
"""Classes of SQLSTATE that only an operator cures: no such table, right, role or database."""


class AuditPublisher:
    """Appends to the audit trail of one database; an event that is there already is left out."""

    def __init__(self, url: sa.URL, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._deadline = 0.0
        self._engine = self._make_engine()
        self._head: Head | None = None
        """None where it has to be read, and what is in the trail with it."""

    def publish(self, batch: Sequence[Envelope], /) -> list[Outcome]:
        """See `Publisher.publish`: all are in the trail then, or all are to be tried again."""
        rows = Rows.of(batch).rows
        self._deadline = time.monotonic() + self._timeout * SHARE
        error: TransientError | None = None
        try:
            while rows and not self._append(rows):
                time.sleep(random.uniform(0, PAUSE_SECONDS))  # noqa: S311  # not a secret
                if time.monotonic() > self._deadline:
                    error = TransientError("others append to the audit trail all the time")
                    break
        except DBAPIError as exc:
            error = self._translated(exc)
        except PoolTimeoutError as exc:
            error = DatabaseUnavailableError(str(exc))
        if error is None:
            return [PUBLISHED] * len(rows)
        self._head = None
        return [Retry(error)] * len(rows)

    def probe(self) -> None:
        """Raise `TransientError` where the trail cannot be read."""
        self._deadline = time.monotonic() + self._timeout * SHARE
        try:
            with self._engine.connect() as connection:
                head_of(connection)
        except DBAPIError as exc:
            raise self._translated(exc) from exc

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()
        self._head = None

    def _append(self, rows: Sequence[Row]) -> bool:
        """Append what is not there yet; return False where somebody else appended meanwhile."""
        head = self._head
        is_read = head is None
        if head is None:
            with self._engine.connect() as connection:
                self._bound(connection)
                head = head_of(connection) or START
                rows = _unknown(connection, rows)
        records = extend(head, rows)
        if records:
            self._head = None
            try:
                self._insert(records)
            except IntegrityError:
                # Somebody was first, or the table refuses the records whoever else appends.
                if is_read and self._read_head() == head:
                    raise
                return False
            except DBAPIError as exc:
                if mysql_number(exc) in CONFLICT_NUMBERS:
                    return False
                raise
            head = Head(records[-1].position, records[-1].hash)
        self._head = head
        return True

    def _read_head(self) -> Head:
        with self._engine.connect() as connection:
            self._bound(connection)
            return head_of(connection) or START

    def _insert(self, records: Sequence[Record]) -> None:
        if self._engine.dialect.name == "postgresql":
            alone = self._engine.execution_options(isolation_level="AUTOCOMMIT")
            with alone.connect() as connection:
                self._bound(connection)
                connection.execute(_RECORDS, {"records": _json(records)})
        else:
            with self._engine.begin() as connection:
                connection.execute(_INSERT, [_values(record) for record in records])

    def _bound(self, connection: sa.Connection) -> None:
        """Let a connection be given up at the deadline, where its driver can be told so."""
        driver: Any = connection.connection.driver_connection
        if hasattr(driver, "deadline"):
            driver.deadline = self._deadline

    def _make_engine(self) -> sa.Engine:
        options: dict[str, Any] = {"pool_size": 1, "max_overflow": 0, "poolclass": sa.QueuePool}
        part = max(self._timeout * SHARE / 2, 1.0)
        if is_pymysql(self._url):
            limits = f"innodb_lock_wait_timeout = {int(part)}, lock_wait_timeout = {int(part)}"
            arguments = {
                "connect_timeout": part,
                "read_timeout": part,
                "write_timeout": part,
                "init_command": (
                    f"SET time_zone = '+00:00', {limits}"
                    f" /*M!100300 , idle_transaction_timeout = {IDLE_SECONDS} */"
                ),
            }
            options["isolation_level"] = "READ COMMITTED"
            return make_engine(self._url, NAME, arguments, **options)
        if not is_psycopg(self._url):
            arguments = {"timeout": part} if self._url.get_backend_name() == "sqlite" else {}
            return make_engine(self._url, NAME, arguments, **options)
        # The driver counts whole seconds, and none below two.
        engine = make_engine(self._url, NAME, {"connect_timeout": max(int(part), 2)}, **options)
        sa.event.listen(engine, "do_connect", self._connect)
        return engine

    def _connect(self, _dialect: object, _record: object, arguments: Any, options: Any) -> Any:
        from outbox.transports.audit.bounded import (  # noqa: PLC0415  # needs psycopg
            BoundedConnection,
        )

        made = BoundedConnection.connect(*arguments, **options)
        made.deadline = self._deadline
        return made

    def _translated(self, exc: DBAPIError) -> TransientError:
        name = shown(self._url)
        state: str | None = getattr(exc.orig, "sqlstate", None)
        number = mysql_number(exc)
        code: str | None = getattr(exc.orig, "sqlite_errorname", None)
        reason = " ".join(str(exc.orig.args[-1] if exc.orig and exc.orig.args else exc).split())
        if state == "42P01" or number in MISSING_NUMBERS or code == "SQLITE_ERROR":
            return DestinationRefusedError(
                f"the audit trail of {name} is missing or old ({reason}): run `outbox migrate`"
            )
        if isinstance(exc, IntegrityError) or number in _RAISED_NUMBERS or state == _RAISED:
            return DestinationRefusedError(
                f"{name} refuses the records: {reason}; has outbox_audit triggers or constraints"
                " that are not those of `outbox migrate`?"
            )
        if number in REFUSED_NUMBERS or (state or "").startswith(_WRONG):
            return DestinationRefusedError(
                f"{name} refuses the audit trail: {reason}; its role needs INSERT and SELECT on"
                " outbox_audit"
            )
        return DatabaseUnavailableError(f"{name} does not answer: {reason}")


def _unknown(connection: sa.Connection, rows: Sequence[Row]) -> list[Row]:
    """Return the rows that are not in the trail yet."""
    wanted = {_identity(row): row for row in rows}
    ids = [identity[0] for identity in wanted]
    for row in rows_with(connection, _KNOWN, audit.c.event_id, ids):
        wanted.pop((row.event_id, row.source, row.sequence), None)
    return list(wanted.values())


def _identity(row: Row) -> tuple[str, str, int]:
    return (
        str(row[ID], "utf-8", "replace"),
        str(row[SOURCE], "utf-8", "replace"),
        row[SEQ],
    )


def _json(records: Sequence[Record]) -> str:
    """Return the records as a JSON array of objects, digests as text that `bytea` reads."""
    return orjson.dumps(
        [
            dict(
                zip(
                    _TYPES,
                    (*record[:12], *["\\x" + digest.hex() for digest in record[12:]]),
                    strict=True,
                )
            )
            for record in records
        ]
    ).decode()


def _values(record: Record) -> dict[str, Any]:
    return {
        **dict(zip(_TYPES, record, strict=True)),
        "time": datetime.fromisoformat(record.time),
    }
