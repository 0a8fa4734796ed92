"""Clients of a pooler that does not give them the same session each time."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psycopg
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def many_sessions(url: str, count: int = 4) -> Iterator[None]:
    """Have the pooler hold several sessions of a database, so that clients change between them."""
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(psycopg.connect(dsn(url), prepare_threshold=None))
            connection.execute("SELECT 1")
        # In a transaction each: there are as many sessions as clients now.
    yield


def dsn(url: str) -> str:
    return sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
