"""A database of the demo's own on a PostgreSQL server, with a schema for each of its four books."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from outbox import migration
from outbox.demo import billing, shop
from outbox.demo.world import Books


@contextmanager
def own_database(server: sa.URL, name: str) -> Iterator[sa.URL]:
    """Create a database, and drop it when the block ends."""
    _administer(server, f'CREATE DATABASE "{name}"')
    try:
        yield server.set(database=name)
    finally:
        _administer(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def make_books(database: sa.URL, name: str) -> Books:
    """Make the schemas and tables of one shop."""
    names = [f"{name}_shop", f"{name}_billing"]
    for schema in names:
        _administer(database, f"CREATE SCHEMA {schema}")
    shop_url, billing_url = (_within(database, schema) for schema in names)
    books = Books(
        shop=sa.create_engine(shop_url),
        billing=sa.create_engine(billing_url),
        both=sa.create_engine(_within(database, ",".join(names))),
    )
    shop.Base.metadata.create_all(books.shop)
    billing.Base.metadata.create_all(books.billing)
    if name == "outbox":
        for url in (shop_url, billing_url):
            migration.upgrade(url)
    return books


def _within(database: sa.URL, schemas: str) -> sa.URL:
    return database.update_query_dict({"options": f"-csearch_path={schemas}"})


def _administer(url: sa.URL, statement: str) -> None:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
