"""Text that SQLite keeps as such, whatever its bytes are: one such cell must not end a reading.

A producer's own SQL may store it, and whoever tampers with a table; no check of SQLite can tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def escaped(cell: bytes) -> str:
    r"""Return text; each byte that is none as `\udcff`, which in JSON is half a letter as well.

    Not as one sign for all, because ids and keys that differ have to stay so.
    """
    return cell.decode(errors="surrogateescape").encode(errors="backslashreplace").decode()


def fetch(
    connection: sa.Connection,
    query: sa.Executable,
    values: Mapping[str, Any] | None = None,
    text: Callable[[bytes], Any] = escaped,
) -> Sequence[sa.Row[Any]]:
    """Return the rows of a query; where one has a text that is no UTF-8, `text` reads them all.

    A function for each text may cost as much as all else, so it is called only there.
    """
    try:
        return connection.execute(query, values).all()
    except sa.exc.OperationalError as exc:
        # What SQLite itself reports has a code; only what its driver cannot decode has none.
        if connection.dialect.name != "sqlite" or hasattr(exc.orig, "sqlite_errorcode"):
            raise
    driver: Any = connection.connection.driver_connection
    before = driver.text_factory
    driver.text_factory = text
    try:
        return connection.execute(query, values).all()
    finally:
        driver.text_factory = before
