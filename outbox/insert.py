"""Writes envelopes to the outbox table, in one statement and one round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson
import sqlalchemy as sa

from outbox.clock import sqlite_text
from outbox.codec import stored_headers
from outbox.errors import NoTransactionError
from outbox.table import outbox_event

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

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
_COLUMNS: Final = tuple(_TYPES)
_INTO: Final = f"INSERT INTO outbox_event ({', '.join(_COLUMNS)})"


def _unnest(placeholders: Iterable[str]) -> str:
    # An array literal is one string a column, which is quicker than what drivers make of a list.
    # By way of text, because a driver that binds by type would want that list.
    types = zip(placeholders, _TYPES.values(), strict=True)
    arrays = ", ".join(f"{placeholder}::text::{type_}[]" for placeholder, type_ in types)
    return f"{_INTO} SELECT * FROM unnest({arrays})"  # noqa: S608  # of the constants above


_VALUES: Final = f"{_INTO} VALUES ({', '.join(['%s'] * len(_COLUMNS))})"
_VALUES_SQLITE: Final = f"{_INTO} VALUES ({', '.join('?' * len(_COLUMNS))})"
_UNNEST: Final = _unnest(["%s"] * len(_COLUMNS))
_UNNEST_NUMBERED: Final = _unnest(f"${number}" for number in range(1, len(_COLUMNS) + 1))


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
        connection.exec_driver_sql(_UNNEST_NUMBERED, literals(envelopes))
    elif len(envelopes) == 1:
        connection.exec_driver_sql(*statement(envelopes[0]))
    else:
        connection.exec_driver_sql(_UNNEST, literals(envelopes))


def is_autocommit(connection: sa.Connection) -> bool:
    """Ask the driver, without I/O, whether each statement commits by itself.

    SQLAlchemy cannot tell: under AUTOCOMMIT too it says that a transaction is open.
    """
    if connection.dialect.name != "sqlite":
        return getattr(connection.connection.dbapi_connection, "autocommit", None) is True
    driver: Any = connection.connection.driver_connection
    # Without an isolation level the application begins by a statement of its own, or nobody does.
    is_manual = driver.isolation_level is None or getattr(driver, "autocommit", None) is True
    return is_manual and not driver.in_transaction


def statement(envelope: Envelope) -> tuple[str, tuple[Any, ...]]:
    """Return the insert of one envelope for psycopg, and its parameters."""
    fields = _fields(envelope)
    fields["headers"] = orjson.dumps(fields["headers"]).decode()
    return _VALUES, tuple(fields.values())


def insert_sqlite(connection: sqlite3.Connection, envelope: Envelope) -> None:
    """Insert one envelope by the standard library's own driver."""
    fields = _fields(envelope)
    fields["headers"] = orjson.dumps(fields["headers"]).decode()
    fields["time"] = sqlite_text(envelope.time)
    connection.execute(_VALUES_SQLITE, tuple(fields.values()))


def literals(envelopes: Sequence[Envelope]) -> tuple[str, ...]:
    """Return a PostgreSQL array literal for each column."""
    return (
        _array([envelope.id for envelope in envelopes]),
        _texts([envelope.source for envelope in envelopes]),
        _texts([envelope.type for envelope in envelopes]),
        _array([str(envelope.version) for envelope in envelopes]),
        _texts([envelope.subject for envelope in envelopes]),
        _texts([envelope.partition_key for envelope in envelopes]),
        _texts([envelope.topic for envelope in envelopes]),
        _array([envelope.time.isoformat() for envelope in envelopes]),
        _texts([envelope.content_type for envelope in envelopes]),
        _array(['"\\\\x' + envelope.data.hex() + '"' for envelope in envelopes]),
        _texts([orjson.dumps(stored_headers(envelope)).decode() for envelope in envelopes]),
    )


def _array(values: Iterable[str]) -> str:
    return "{" + ",".join(values) + "}"


def _texts(values: Sequence[str | None]) -> str:
    return _array("NULL" if value is None else _quoted(value) for value in values)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _fields(envelope: Envelope) -> dict[str, Any]:
    """Return the columns of a row, in the order of `_COLUMNS`."""
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
