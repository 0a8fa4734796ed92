"""Notices that MariaDB or MySQL has rolled a transaction back, which SQLAlchemy does not.

In a deadlock the whole transaction of one side is gone, not the statement alone, and the next
statement begins another one without a word. Code that catches the error and goes on would commit
events without their state, or effects without their claim in the inbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from outbox.dialect import is_mysql, mysql_number

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext

_KEY: Final = "outbox.rolled_back"
"""Where `Connection.info` keeps the transaction that is gone."""
_NUMBERS: Final = frozenset({1020, 1206, 1213})
"""A row that changed since the snapshot, a full table of locks, and a deadlock. A lock that took
too long (1205) undoes its statement alone, unless innodb_rollback_on_timeout is on."""


def watch(engine: sa.Engine) -> None:
    """Watch the transactions of an engine from now on; PostgreSQL's and SQLite's need it not."""
    if is_mysql(engine.dialect) and not sa.event.contains(engine, "handle_error", _note):
        sa.event.listen(engine, "handle_error", _note)


def is_rolled_back(connection: sa.Connection) -> bool:
    """Tell whether the transaction that a connection seems to be in is gone."""
    if not is_mysql(connection.dialect) or connection.closed or connection.invalidated:
        return False
    gone = connection.info.get(_KEY)
    return gone is not None and gone is connection.get_transaction()


def _note(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or context.is_disconnect or context.original_exception is None:
        return
    if mysql_number(context.original_exception) in _NUMBERS:
        connection.info[_KEY] = connection.get_transaction()
