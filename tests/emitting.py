"""A shop whose statements are recorded, for the tests of `emit`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import outbox
from outbox import stored
from outbox.table import outbox_event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.emitter import Target


@outbox.event("test.happened", key="key")
class Happened(BaseModel):
    name: str
    key: str = "k"


class Base(DeclarativeBase):
    """The shop's own tables."""


class Order(Base):
    __tablename__ = "shop_order"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(200))
    total: Mapped[int] = mapped_column(server_default="0")


def emit(target: Target, name: str, key: str = "k", **options: Any) -> outbox.Envelope:
    return outbox.emit(target, Happened(name=name, key=key), **options)


def emit_all_attributes(target: Target, text: str) -> outbox.Envelope:
    """Emit an event whose every attribute is the text."""
    return emit(
        target,
        text,
        key=text,
        topic=text,
        subject=text,
        source=text,
        actor=text,
        dataschema=text,
        correlation_id=text,
        causation_id=text,
        traceparent=text,
        tracestate=text,
        headers={text: text, "empty": ""},
    )


class Shop:
    """A database with orders and the outbox; `statements` has what was sent to it, in order."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.statements: list[str] = []
        Base.metadata.create_all(engine)
        sa.event.listen(engine, "before_cursor_execute", self._record)
        sa.event.listen(engine, "savepoint", lambda *_: self.statements.append("SAVEPOINT"))
        sa.event.listen(engine, "commit", lambda _: self.statements.append("COMMIT"))

    def _record(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.statements.append(statement.partition("(")[0].strip())

    @property
    def writes(self) -> list[str]:
        """The tables written to and the commits, one entry a statement."""
        return [
            statement.removeprefix("INSERT INTO ")
            for statement in self.statements
            if statement.startswith(("INSERT", "COMMIT"))
        ]

    def names(self) -> list[str]:
        """The events that are committed, by number."""
        return names(self.engine)

    def orders(self) -> int:
        with self.engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(Order)) or 0


def names(engine: sa.Engine) -> list[str]:
    return [Happened.model_validate_json(envelope.data).name for envelope in read(engine)]


def read(engine: sa.Engine) -> list[outbox.Envelope]:
    """What the outbox has, by number, as it was emitted."""
    query = sa.select(*stored.columns()).order_by(outbox_event.c.seq)
    with engine.connect() as connection:
        return [replace(each, sequence=None) for each in stored.read(connection, query)]


@contextmanager
def listening(target: Any, name: str, function: Any) -> Iterator[None]:
    """Listen to a SQLAlchemy event until the block ends."""
    sa.event.listen(target, name, function)
    try:
        yield
    finally:
        sa.event.remove(target, name, function)
