"""The database's clock, as SQL: every time that decides anything is taken from there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement

from outbox.dialect import MYSQL, is_mysql

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect
    from sqlalchemy.sql.compiler import SQLCompiler


class Timestamp(sa.types.TypeDecorator[datetime]):
    """A moment: `timestamptz`; UTC where the database has no type for one.

    That is `datetime(6)` on MariaDB and MySQL, whose own `timestamp` depends on the session and
    ends in 2038; and on SQLite ISO 8601 text that sorts by time.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """Choose what the database has."""
        kind: sa.types.TypeEngine[Any] = sa.DateTime(timezone=True)
        if dialect.name == "sqlite":
            kind = sa.Text()
        elif is_mysql(dialect):
            kind = mysql.DATETIME(fsp=6)
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Write UTC."""
        if value is None:
            return None
        if dialect.name == "sqlite":
            return sqlite_text(value)
        if is_mysql(dialect):
            return value.astimezone(UTC).replace(tzinfo=None)
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Read a timezone-aware datetime; what the database's own functions write is UTC."""
        if value is None:
            return None
        # Its `Z` may be small, as RFC 3339 allows and Python does not.
        is_text = dialect.name == "sqlite"
        moment: datetime = datetime.fromisoformat(value.upper()) if is_text else value
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def sqlite_text(moment: datetime) -> str:
    """Write a timezone-aware moment as SQLite stores it here."""
    # Not strftime, which writes the year 1 as `1`.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class now(ColumnElement[datetime]):  # noqa: N801  # reads as the SQL function that it is
    """The server's wall clock at this statement, not at the start of the transaction."""

    inherit_cache = True
    type = Timestamp()
    # Said although it is empty: without it no statement that asks the time would be cached.
    _traverse_internals = []  # noqa: RUF012  # SQLAlchemy declares it so


class now_plus(ColumnElement[datetime]):  # noqa: N801  # as above
    """The server's wall clock and a number of seconds more."""

    inherit_cache = True
    type = Timestamp()
    _traverse_internals = [  # noqa: RUF012  # SQLAlchemy declares it so
        ("seconds", sa.sql.visitors.InternalTraversal.dp_clauseelement)
    ]

    def __init__(self, seconds: float | sa.BindParameter[float]) -> None:
        """Take the seconds as a bound parameter; or one that is given with each execution."""
        self.seconds: ColumnElement[float] = (
            seconds
            if isinstance(seconds, sa.BindParameter)
            else sa.bindparam("seconds", seconds, sa.Float, unique=True)
        )


@compiles(now)
def _now(_element: now, _compiler: SQLCompiler, **_: object) -> str:
    return "clock_timestamp()"


@compiles(now, "sqlite")
def _now_sqlite(_element: now, _compiler: SQLCompiler, **_: object) -> str:
    return "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"


@compiles(now_plus)
def _now_plus(element: now_plus, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.seconds, **options)
    return f"(clock_timestamp() + make_interval(secs => {seconds}))"


@compiles(now_plus, "sqlite")
def _now_plus_sqlite(element: now_plus, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.seconds, **options)
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('%+f seconds', {seconds}))"


@compiles(now, *MYSQL)
def _now_mysql(_element: now, _compiler: SQLCompiler, **_: object) -> str:
    return "(UTC_TIMESTAMP(6))"


@compiles(now_plus, *MYSQL)
def _now_plus_mysql(element: now_plus, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.seconds, **options)
    # In whole microseconds, because an interval in seconds loses what is below one.
    return f"TIMESTAMPADD(MICROSECOND, ROUND({seconds} * 1000000), UTC_TIMESTAMP(6))"
