"""The database's clock, as SQL: every time that decides anything is taken from there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect
    from sqlalchemy.sql.compiler import SQLCompiler


class Timestamp(sa.types.TypeDecorator[datetime]):
    """A moment: `timestamptz`, or in UTC: `datetime` on MariaDB, ISO 8601 that sorts on SQLite."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """Choose what the database has for a moment."""
        kind: sa.types.TypeEngine[Any] = sa.DateTime(timezone=True)
        if dialect.name == "sqlite":
            kind = sa.Text()
        elif dialect.name == "mariadb":
            kind = mysql.DATETIME(fsp=6)
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Write UTC."""
        if value is None or dialect.name == "postgresql":
            return value
        if dialect.name == "mariadb":
            return value.astimezone(UTC).replace(tzinfo=None)
        return sqlite_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Read a timezone-aware datetime; what databases without time zones hold is UTC."""
        moment: datetime | None = value
        if value is None or dialect.name == "postgresql":
            return moment
        if dialect.name == "sqlite":
            moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


def sqlite_text(moment: datetime) -> str:
    """Write a timezone-aware moment as SQLite stores it here."""
    # Not strftime, which writes the year 1 as `1`.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class now(ColumnElement[datetime]):  # noqa: N801  # reads as the SQL function that it is
    """The server's wall clock at this statement, not at the start of the transaction."""

    inherit_cache = True
    type = Timestamp()


class now_plus(ColumnElement[datetime]):  # noqa: N801  # as above
    """The server's wall clock and a number of seconds more."""

    inherit_cache = True
    type = Timestamp()
    _traverse_internals = [  # noqa: RUF012  # SQLAlchemy declares it so
        ("seconds", sa.sql.visitors.InternalTraversal.dp_clauseelement)
    ]

    def __init__(self, seconds: float) -> None:
        """Take the seconds as a bound parameter."""
        self.seconds: ColumnElement[float] = sa.bindparam("seconds", seconds, sa.Float, unique=True)


@compiles(now)
def _now(_element: now, _compiler: SQLCompiler, **_: object) -> str:
    return "clock_timestamp()"


@compiles(now, "sqlite")
def _now_sqlite(_element: now, _compiler: SQLCompiler, **_: object) -> str:
    return "(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"


@compiles(now, "mariadb")
def _now_mariadb(_element: now, _compiler: SQLCompiler, **_: object) -> str:
    return "(utc_timestamp(6))"


@compiles(now_plus)
def _now_plus(element: now_plus, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.seconds, **options)
    return f"(clock_timestamp() + make_interval(secs => {seconds}))"


@compiles(now_plus, "sqlite")
def _now_plus_sqlite(element: now_plus, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.seconds, **options)
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', printf('%+f seconds', {seconds}))"


@compiles(now_plus, "mariadb")
def _now_plus_mariadb(element: now_plus, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.seconds, **options)
    return f"(utc_timestamp(6) + INTERVAL {seconds} SECOND)"
