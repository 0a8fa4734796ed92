"""What tells kinds of databases apart, where SQLAlchemy leaves it to us.

MariaDB and MySQL are one kind here: SQLAlchemy calls either by the name in the URL, so a MariaDB
may be `mysql`. Their errors are told by numbers alone, because their texts change, and the class
of an error is its driver's choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy.dialects import mysql, postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import sqlalchemy as sa
    from sqlalchemy.engine import Dialect

    Columns: TypeAlias = sa.ColumnCollection[str, sa.ColumnElement[Any]]
    Change: TypeAlias = Callable[[Columns], Mapping[str, Any]]

MYSQL: Final = ("mysql", "mariadb")
"""The names of MariaDB and MySQL, for SQLAlchemy's functions that take names."""

CONFLICT_NUMBERS: Final = frozenset({1020, 1205, 1213})
"""A row that changed since the snapshot, a lock that took too long, and a deadlock."""
OUTAGE_NUMBERS: Final = frozenset({1040, 1053, 1290, 1792, 1836, 1927, 2003, 2006, 2013, 4031})
"""Too many connections, a shutdown, read-only, a killed session, and a connection that is none."""
MISSING_NUMBERS: Final = frozenset({1054, 1146})
"""There is no such column or table."""
DENIED_NUMBERS: Final = frozenset({1044, 1142, 1143, 1227, 1370})
"""A right is missing."""
NO_DATABASE_NUMBERS: Final = frozenset({1046, 1049})
"""None was named, or there is none of that name."""
REFUSED_NUMBERS: Final = DENIED_NUMBERS | NO_DATABASE_NUMBERS | {1045, 1698}
"""A right, a password or a database is missing."""


def is_mysql(dialect: Dialect) -> bool:
    """Tell whether it is MariaDB or MySQL."""
    return dialect.name in MYSQL


def collation(dialect: Dialect) -> str:
    """Return the collation of MariaDB or MySQL that compares exactly, blanks at the end included.

    They have none in common: what both call `utf8mb4_bin` takes `a` and `a ` for the same.
    """
    is_mariadb: bool = getattr(dialect, "is_mariadb", False)
    return "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"


def mysql_number(error: BaseException) -> int | None:
    """Return the number of an error of MariaDB or MySQL; None for another database's error."""
    origin = getattr(error, "orig", error)
    if type(origin).__module__.partition(".")[0] not in _DRIVERS:
        return None
    number = origin.args[0] if origin.args else None
    return number if isinstance(number, int) else None


_DRIVERS: Final = frozenset({"pymysql", "aiomysql", "asyncmy", "MySQLdb"})
"""SQLite's driver has numbers of its own, and PostgreSQL's have texts in this place."""


def insert_unless_there(
    table: sa.Table, dialect: Dialect, keys: Sequence[str], change: Change | None = None
) -> sa.Insert:
    """Make an INSERT that, where a row has these keys already, changes that or leaves it as it is.

    `change` takes the columns of the row that was to be inserted, and returns what to set.
    """
    if is_mysql(dialect):
        insert = mysql.insert(table)
        kept: Mapping[str, Any] = {keys[0]: table.c[keys[0]]}
        return insert.on_duplicate_key_update(dict(change(insert.inserted) if change else kept))
    made = (postgresql.insert if dialect.name == "postgresql" else sqlite.insert)(table)
    if change is None:
        return made.on_conflict_do_nothing(index_elements=keys)
    return made.on_conflict_do_update(index_elements=keys, set_=dict(change(made.excluded)))
