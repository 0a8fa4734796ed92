"""Writes envelopes to the outbox table, in one statement and one round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
import sqlalchemy as sa

from outbox.clock import sqlite_text
from outbox.codec import stored_headers
from outbox.dialect import is_mysql
from outbox.errors import NoTransactionError
from outbox.table import outbox_event

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from outbox.envelope import Envelope

INSERT: Final = sa.insert(outbox_event).inline()
"""Without RETURNING: nobody needs the number before the relay does."""

# Each column with its PostgreSQL type. `seq`, `transaction_id` and nothing else are the server's.
_TYPES: Final = {
    "id": "uuid",
    "source": "text",
    "type": "text",
    "version": "int",
    "subject": "text",
    "partition_key": "text",
    "topic": "text",
    "time": "timestamptz",
    "content_type": "text",
    "data": "bytea",
    "headers": "jsonb",
}
COLUMNS: Final = tuple(_TYPES)
"""What a producer may say of an event."""
_INTO: Final = f"INSERT INTO outbox_event ({', '.join(COLUMNS)})"


_RECORD: Final = ", ".join(f"{name} {type_}" for name, type_ in _TYPES.items())
# One text for all rows is quicker, here and on the server, than a parameter for each value or
# a list for each column. By way of text, because a driver that binds by type would want objects.
_RECORDS: Final = f"{_INTO} SELECT * FROM json_to_recordset(%s::text::json) AS record ({_RECORD})"  # noqa: S608  # of the constants above
_RECORDS_NUMBERED: Final = _RECORDS.replace("%s", "$1")
_VALUES_SQLITE: Final = f"{_INTO} VALUES ({', '.join('?' * len(COLUMNS))})"


def insert(connection: sa.Connection, envelopes: Sequence[Envelope]) -> None:
    """Insert envelopes in their order, in the connection's transaction.

    Raises `NoTransactionError` where the driver commits each statement by itself.
    """
    if is_autocommit(connection):
        raise NoTransactionError(
            "the connection is in AUTOCOMMIT, so the event would not commit with the state: use an"
            " isolation level with transactions"
        )
    options = connection.get_execution_options()
    if connection.dialect.name != "postgresql" or options.get("schema_translate_map"):
        connection.execute(INSERT, [_fields(envelope) for envelope in envelopes])
    elif connection.dialect.paramstyle.startswith("numeric"):
        connection.exec_driver_sql(_RECORDS_NUMBERED, (_records(envelopes),))
    else:
        connection.exec_driver_sql(_RECORDS, (_records(envelopes),))


def is_autocommit(connection: sa.Connection) -> bool:
    """Ask the driver, without I/O, whether each statement commits by itself.

    SQLAlchemy cannot tell: under AUTOCOMMIT too it says that a transaction is open.
    """
    if is_mysql(connection.dialect):
        # Their drivers have `autocommit` to set it; the server tells with each answer.
        return bool(getattr(connection.connection.dbapi_connection, "get_autocommit", bool)())
    if connection.dialect.name != "sqlite":
        return getattr(connection.connection.dbapi_connection, "autocommit", None) is True
    driver: Any = connection.connection.driver_connection
    # Without an isolation level the application begins by a statement of its own, or nobody does.
    is_manual = driver.isolation_level is None or getattr(driver, "autocommit", None) is True
    return is_manual and not driver.in_transaction


def statement(envelope: Envelope) -> tuple[str, tuple[str]]:
    """Return the insert of one envelope for psycopg, and its parameters."""
    return _RECORDS, (_records([envelope]),)


def insert_sqlite(connection: sqlite3.Connection, envelope: Envelope) -> None:
    """Insert one envelope by the standard library's own driver."""
    fields = _fields(envelope)
    fields["headers"] = orjson.dumps(fields["headers"]).decode()
    fields["time"] = sqlite_text(envelope.time)
    connection.execute(_VALUES_SQLITE, tuple(fields.values()))


def _records(envelopes: Sequence[Envelope]) -> str:
    """Return the rows as a JSON array of objects."""
    return orjson.dumps([_record(envelope) for envelope in envelopes]).decode()


def _record(envelope: Envelope) -> dict[str, Any]:
    record = _fields(envelope)
    record["time"] = envelope.time.isoformat()  # orjson drops the seconds of an offset
    record["data"] = "\\x" + envelope.data.hex()  # text that `bytea` reads, in any encoding
    return record


def _fields(envelope: Envelope) -> dict[str, Any]:
    """Return the columns of a row, in the order of `COLUMNS`."""
    return {
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
        "version": envelope.version,
        "subject": envelope.subject,
        "partition_key": envelope.partition_key,
        "topic": envelope.topic,
        "time": envelope.time,
        "content_type": envelope.content_type,
        "data": envelope.data,
        "headers": stored_headers(envelope),
    }
