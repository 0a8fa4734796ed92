"""The types and defaults of columns, on each kind of database."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement

from outbox.dialect import MYSQL, collation, is_mysql
from outbox.envelope import MAX_NAME_BYTES
from outbox.jsontext import read_object

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect
    from sqlalchemy.sql.compiler import SQLCompiler


class Xid8(sa.types.UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Name the type in DDL."""
        return "xid8"


class own_transaction(ColumnElement[str]):  # noqa: N801  # reads as the SQL function that it is
    """The id of the writing transaction where the database has one that it tells."""

    inherit_cache = True
    type = Xid8()


@compiles(own_transaction)
def _own_transaction(_element: own_transaction, _compiler: SQLCompiler, **_: object) -> str:
    return "pg_current_xact_id()"


@compiles(own_transaction, "sqlite", *MYSQL)
def _no_transaction(_element: own_transaction, _compiler: SQLCompiler, **_: object) -> str:
    return "NULL"


class Text(sa.types.TypeDecorator[str]):
    """Text of any length, compared exactly.

    On MariaDB and MySQL it needs the type and the collation: by default text ends at 64 KB, and
    `a`, `A` and `a ` are the same.
    """

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """Choose the type and the collation."""
        if is_mysql(dialect):
            return mysql.LONGTEXT(charset="utf8mb4", collation=collation(dialect))
        return sa.Text()


class Name(sa.types.TypeDecorator[str]):
    """Text of at most so many bytes, compared exactly, that an index of several columns takes.

    Only our own programs write it. On MariaDB and MySQL it is bytes: an index takes 3,072 of them
    in all, and four for each letter that a column of text may have, whatever is in it.
    """

    impl = sa.Text
    cache_ok = True

    def __init__(self, size: int = MAX_NAME_BYTES, *, collation: str | None = None) -> None:
        """Take the most bytes that it has, and PostgreSQL's collation."""
        super().__init__()
        self.size = size
        self.collation = collation

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """Choose the type and the collation."""
        if is_mysql(dialect):
            return mysql.VARBINARY(self.size)
        return sa.Text(collation=self.collation if dialect.name == "postgresql" else None)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """Encode where it is bytes."""
        return value.encode() if value is not None and is_mysql(dialect) else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Decode where it is bytes."""
        stored: str | None = value
        return bytes(value).decode() if value is not None and is_mysql(dialect) else stored


class Uuid(sa.types.TypeDecorator[str]):
    """A UUID as text.

    On MariaDB and MySQL it is text in the canonical form, which a check has to see to: MariaDB's
    own type for it takes what is none for zeros where the session is not strict.
    """

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """Choose the type."""
        if dialect.name == "postgresql":
            return postgresql.UUID(as_uuid=False)
        if is_mysql(dialect):
            # Longer than a UUID, so that the check sees what a session that is not strict cuts.
            return mysql.VARCHAR(40, charset="utf8mb4", collation=collation(dialect))
        return sa.Text()


def is_uuid(text: str) -> bool:
    """Tell whether PostgreSQL can compare an id with a text, instead of failing."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


class JsonObject(sa.types.TypeDecorator[dict[str, Any]]):
    """A JSON object: `jsonb`, or text where the database or its driver has no such type."""

    impl = postgresql.JSONB
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        """Choose text where there is no type for it."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.JSONB(none_as_null=True))
        return Text().load_dialect_impl(dialect)

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Dialect) -> Any:
        """Serialise where the driver does not."""
        if value is None or dialect.name == "postgresql":
            return value
        # A named tuple is a list, as it is for the drivers that serialise by themselves.
        return orjson.dumps(value, default=list).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> dict[str, Any] | None:
        """Parse where the driver does not."""
        if value is None or dialect.name == "postgresql":
            stored: dict[str, Any] | None = value
            return stored
        return read_object(value)


class random_uuid(ColumnElement[str]):  # noqa: N801  # reads as the SQL function that it is
    """A random UUID (version 4) as a column default, for producers that write plain SQL."""

    inherit_cache = True
    type = sa.Text()


@compiles(random_uuid)
def _uuid(_element: random_uuid, _compiler: SQLCompiler, **_: object) -> str:
    return "gen_random_uuid()"


@compiles(random_uuid, "sqlite")
def _uuid_sqlite(_element: random_uuid, _compiler: SQLCompiler, **_: object) -> str:
    return (
        "(lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' ||"
        " substr(hex(randomblob(2)), 2) || '-' || substr('89ab', 1 + (abs(random()) % 4), 1) ||"
        " substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))"
    )


@compiles(random_uuid, *MYSQL)
def _uuid_mysql(_element: random_uuid, _compiler: SQLCompiler, **_: object) -> str:
    return "(uuid())"  # of version 1: it is unique, if not random


NUMBER: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
C_NAME: Final = Name(collation="C")
"""Compared byte by byte: ids need no language's rules, and sort faster without them."""
DATA: Final = sa.LargeBinary().with_variant(mysql.LONGBLOB(), *MYSQL)
HASH: Final = sa.LargeBinary().with_variant(mysql.VARBINARY(32), *MYSQL)
"""A SHA-256."""
