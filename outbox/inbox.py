"""The inbox: which events a consumer has processed, written in the handler's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson
import sqlalchemy as sa

from outbox.dialect import is_mysql

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

EventId = tuple[str, str]
"""`source` and `id`: ids are unique only within their source."""

# The drivers' own arrays are slower to write than a literal; without the inner cast some of them
# would ask for a list.
_INSERT: Final = """\
INSERT INTO outbox_inbox (consumer, source, event_id)
SELECT :consumer, source, event_id
  FROM unnest(CAST(CAST(:sources AS text) AS text[]), CAST(CAST(:ids AS text) AS text[]))
    AS claimed (source, event_id)"""
_POSTGRESQL: Final = sa.text(_INSERT)
_POSTGRESQL_KNOWN: Final = sa.text(f"{_INSERT} ON CONFLICT DO NOTHING RETURNING source, event_id")

_SQLITE: Final = sa.text("""\
INSERT INTO outbox_inbox (consumer, source, event_id)
SELECT :consumer, json_extract(value, '$[0]'), json_extract(value, '$[1]')
  FROM json_each(:pairs)
 WHERE true
    ON CONFLICT DO NOTHING
RETURNING source, event_id""")


# One byte more than the columns take, so that what is too long is refused and not cut.
_CLAIMED: Final = """\
JSON_TABLE(:pairs, '$[*]' COLUMNS (
    source varbinary(1001) PATH '$[0]', event_id varbinary(1001) PATH '$[1]'
)) AS claimed"""
_MYSQL: Final = sa.text(f"""\
INSERT INTO outbox_inbox (consumer, source, event_id)
SELECT :consumer, source, event_id FROM {_CLAIMED}""")  # noqa: S608  # of the constant above
_MYSQL_KNOWN: Final = sa.text(f"""\
SELECT known.source, known.event_id
  FROM {_CLAIMED}
  STRAIGHT_JOIN outbox_inbox AS known
     ON known.consumer = :consumer
    AND known.source = claimed.source
    AND known.event_id = claimed.event_id
  LOCK IN SHARE MODE""")  # noqa: S608  # as above


def claim(connection: sa.Connection, consumer: str, ids: Collection[EventId]) -> set[EventId]:
    """Enter events into the inbox of a consumer; return those that were not there yet.

    It waits for another transaction that has claimed one of them, and claims it where that one
    rolls back. In one order for everyone, and once a transaction: two claims of one transaction,
    or in another order, can deadlock.
    """
    pairs = sorted(set(ids))
    if not pairs:
        return set()
    if connection.dialect.name == "postgresql":
        return _claim_postgresql(connection, consumer, pairs)
    if is_mysql(connection.dialect):
        return _claim_mysql(connection, consumer, pairs)
    found = connection.execute(
        _SQLITE, {"consumer": consumer, "pairs": orjson.dumps(pairs).decode()}
    )
    return {(source, event_id) for source, event_id in found}


def _claim_postgresql(
    connection: sa.Connection, consumer: str, pairs: Sequence[EventId]
) -> set[EventId]:
    """Expect that all are new, which they nearly always are; ask which ones only if not.

    A plain insert takes half the time of one that tolerates conflicts and returns its rows.
    """
    sources, ids = zip(*pairs, strict=True)
    parameters = {"consumer": consumer, "sources": _array(sources), "ids": _array(ids)}
    try:
        with connection.begin_nested():
            connection.execute(_POSTGRESQL, parameters)
    except sa.exc.IntegrityError:
        # The savepoint has given back what it claimed, so the order is kept here too.
        found = connection.execute(_POSTGRESQL_KNOWN, parameters)
        return {(source, event_id) for source, event_id in found}
    return set(pairs)


def _claim_mysql(
    connection: sa.Connection, consumer: str, pairs: Sequence[EventId]
) -> set[EventId]:
    """Expect that all are new; ask which ones are not, and insert the others, until all is told.

    A statement that meets a duplicate is undone as a whole. It has waited for the transaction that
    wrote it, and so does the locking read, which sees what is committed at any isolation level.
    Between the two another one may claim more: hence the loop.
    """
    left = list(pairs)
    while left:
        parameters = {"consumer": consumer.encode(), "pairs": orjson.dumps(left).decode()}
        try:
            connection.execute(_MYSQL, parameters)
        except sa.exc.IntegrityError:
            rows = connection.execute(_MYSQL_KNOWN, parameters)
            known = {(source.decode(), event_id.decode()) for source, event_id in rows}
            left = [pair for pair in left if pair not in known]
        else:
            break
    return set(left)


def _array(texts: Collection[str]) -> str:
    """Write a PostgreSQL array literal."""
    quoted = ['"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts]
    return "{" + ",".join(quoted) + "}"
