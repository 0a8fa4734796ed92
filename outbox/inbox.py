"""The inbox: which events a consumer has processed, written in the handler's transaction."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

import orjson
import sqlalchemy as sa

from outbox.dialect import is_mysql

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

EventId = tuple[str, str]
"""`source` and `id`: ids are unique only within their source."""

# One text that the server takes apart is read faster than an array, by it and by every driver.
# Where all events have one source it stands alone, and `sources` is empty.
_INSERT: Final = """\
INSERT INTO outbox_inbox (consumer, source, event_id)
SELECT :consumer, COALESCE(source, :source), event_id
  FROM unnest(string_to_array(:sources, :separator), string_to_array(:ids, :separator))
    AS claimed (source, event_id)"""
_POSTGRESQL: Final = sa.text(f"{_INSERT} ON CONFLICT DO NOTHING RETURNING source, event_id")
_POSTGRESQL_NEW: Final = sa.text(_INSERT)
_POSTGRESQL_NEW_WITHOUT_LETTERS: Final = sa.text(f"""\
{_INSERT}
 WHERE NOT EXISTS (SELECT FROM outbox_dead_letter
                    WHERE stage = 'consumer' AND owner = :consumer
                      AND resolved_at IS NULL AND type IS NOT NULL)""")
SEPARATOR: Final = "\x1f"
"""ASCII's own; a text that holds it gets another one."""

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
    if not ids:
        return set()
    if connection.dialect.name == "postgresql":
        found = connection.execute(_POSTGRESQL, _parameters(consumer, ids))
    elif is_mysql(connection.dialect):
        return _claim_mysql(connection, consumer, sorted(set(ids)))
    else:
        pairs = orjson.dumps(sorted(set(ids))).decode()
        found = connection.execute(_SQLITE, {"consumer": consumer, "pairs": pairs})
    return {(source, event_id) for source, event_id in found}


def claim_new(
    connection: sa.Connection,
    consumer: str,
    ids: Collection[EventId],
    *,
    is_without_letters: bool = False,
) -> bool:
    """Enter events that are expected to be new, as they nearly always are; on PostgreSQL alone.

    It takes half the time of `claim`, and no savepoint: raises SQLAlchemy's `IntegrityError` where
    one was there, and the transaction can only be rolled back, so let it be the first statement.
    With `is_without_letters` it looks as well, in the same round trip, whether the consumer has an
    unresolved letter of an event: then it enters none and returns False.
    """
    statement = _POSTGRESQL_NEW_WITHOUT_LETTERS if is_without_letters else _POSTGRESQL_NEW
    return connection.execute(statement, _parameters(consumer, ids)).rowcount > 0


def _parameters(consumer: str, ids: Collection[EventId]) -> dict[str, Any]:
    pairs = sorted(set(ids))
    sources, names = [source for source, _ in pairs], [name for _, name in pairs]
    separator = SEPARATOR
    if separator in "".join(sources) or separator in "".join(names):
        separator = uuid.uuid4().hex  # in no text that was made before it
    is_one = sources[0] == sources[-1]
    return {
        "consumer": consumer,
        "source": sources[0],
        "sources": "" if is_one else separator.join(sources),
        "ids": separator.join(names),
        "separator": separator,
    }


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
