"""A shop whose classes are tracked, and what their events say."""

from __future__ import annotations

import enum
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal  # noqa: TC003  # the mapping reads it
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

import outbox
from outbox.tracking import _trackings
from tests.emitting import read

if TYPE_CHECKING:
    from collections.abc import Sequence


class Base(DeclarativeBase):
    """The shop's own tables."""


class Status(enum.Enum):
    NEW = "new"
    PAID = "paid"


NAME = sa.String(100)
MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOKEN = uuid.UUID("0190c2a0-0000-7000-8000-000000000001")


class Customer(Base):
    __tablename__ = "tracked_customer"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(NAME)
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Order(Base):
    __tablename__ = "tracked_order"

    id: Mapped[str] = mapped_column(NAME, primary_key=True)
    status: Mapped[Status] = mapped_column(default=Status.NEW)
    total: Mapped[Decimal | None] = mapped_column(sa.Numeric(10, 2))
    customer_id: Mapped[int | None] = mapped_column(sa.ForeignKey(Customer.id))
    due_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
    token: Mapped[uuid.UUID | None]
    notes: Mapped[dict[str, Any] | None] = mapped_column(MutableDict.as_mutable(sa.JSON()))
    scan: Mapped[bytes | None]
    copies: Mapped[int] = mapped_column(server_default="1")
    remark: Mapped[str | None] = mapped_column("remark_text", NAME, deferred=True)
    seen: Mapped[int] = mapped_column(default=0)

    customer: Mapped[Customer | None] = relationship(back_populates="orders")
    lines: Mapped[list[Line]] = relationship(cascade="all, delete-orphan")


class Line(Base):
    __tablename__ = "tracked_line"

    order_id: Mapped[str] = mapped_column(sa.ForeignKey(Order.id), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    quantity: Mapped[int]
    note: Mapped[str | None] = mapped_column(NAME)
    doubled: Mapped[int] = mapped_column(sa.Computed("quantity * 2", persisted=True))
    edits: Mapped[int] = mapped_column(default=0, onupdate=sa.text("edits + 1"))


class Animal(Base):
    __tablename__ = "tracked_animal"
    __mapper_args__ = {  # noqa: RUF012  # as SQLAlchemy types it
        "polymorphic_on": "kind",
        "polymorphic_identity": "animal",
    }

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(NAME)
    name: Mapped[str] = mapped_column(NAME)


class Dog(Animal):
    __tablename__ = "tracked_dog"
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012  # as SQLAlchemy types it

    id: Mapped[int] = mapped_column(sa.ForeignKey(Animal.id), primary_key=True)
    tricks: Mapped[int] = mapped_column(default=0)


class Cat(Animal):
    """In the table of all animals, and tracked by itself as well."""

    __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012  # as SQLAlchemy types it

    lives: Mapped[int | None]


class Page(Base):
    """Two of them may point to each other, which takes an UPDATE after the INSERT."""

    __tablename__ = "tracked_page"

    id: Mapped[int] = mapped_column(primary_key=True)
    next_id: Mapped[int | None] = mapped_column(sa.ForeignKey("tracked_page.id"))
    next: Mapped[Page | None] = relationship(remote_side="Page.id", post_update=True)


class Paper(Base):
    """Whoever writes one field of it changes others as well."""

    __tablename__ = "tracked_paper"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int | None]
    title: Mapped[str] = mapped_column(NAME)
    day: Mapped[date | None]
    more: Mapped[Any] = mapped_column(sa.JSON(), nullable=True)
    seen: Mapped[int] = mapped_column(default=0)
    revision: Mapped[int] = mapped_column()
    edits: Mapped[int] = mapped_column(default=0, onupdate=sa.text("edits + 1"))
    mark: Mapped[int] = mapped_column(default=0, onupdate=lambda: 99)
    length: Mapped[int] = mapped_column(sa.Computed("seen * 2", persisted=True))

    __mapper_args__ = {"version_id_col": revision}  # noqa: RUF012  # as SQLAlchemy types it


class Note(Base):
    __tablename__ = "tracked_note"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(NAME)


class OldNote(Note):
    """With all columns in a table of its own."""

    __tablename__ = "tracked_old_note"
    __mapper_args__ = {"concrete": True}  # noqa: RUF012  # as SQLAlchemy types it

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(NAME)


class Tag(Base):
    __tablename__ = "tracked_tag"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(NAME)
    papers: Mapped[list[Paper]] = relationship(secondary="tracked_tagging")


class Tagging(Base):
    """A row that the relationship `Tag.papers` writes, without an instance."""

    __tablename__ = "tracked_tagging"

    tag_id: Mapped[int] = mapped_column(sa.ForeignKey(Tag.id), primary_key=True)
    paper_id: Mapped[int] = mapped_column(sa.ForeignKey(Paper.id), primary_key=True)


FIELDS = ["status", "total", "customer_id", "due_at", "token", "notes", "scan", "copies", "remark"]
OrderChanged = outbox.track(Order, fields=FIELDS, type="shop.order")
LINE_FIELDS = ["quantity", "note", "doubled", "edits"]
LineChanged = outbox.track(Line, fields=LINE_FIELDS, type="shop.line", key="order_id")
AnimalChanged = outbox.track(Animal, fields=["name"], on_bulk="warn")
PageChanged = outbox.track(Page, fields=["next_id"], type="shop.page")
PAPER_FIELDS = ["title", "day", "more", "revision", "edits", "mark", "length"]
PaperChanged = outbox.track(Paper, fields=PAPER_FIELDS, type="shop.paper", key="owner")
NoteChanged = outbox.track(Note, fields=["text"], type="shop.note")
TagChanged = outbox.track(Tag, fields=["name"], type="shop.tag")
TaggingChanged = outbox.track(Tagging, fields=["tag_id", "paper_id"], type="shop.tagging")
CatChanged = outbox.track(Cat, fields=["name", "lives"], type="zoo.cat", on_bulk="ignore")


class Shop:
    """A database with the tracked tables; `statements` has what was sent to it."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        Base.metadata.create_all(engine)
        self.statements: list[str] = []
        sa.event.listen(engine, "before_cursor_execute", self._record)

    def _record(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.statements.append(statement)

    @property
    def queries(self) -> list[str]:
        return [statement for statement in self.statements if statement.startswith("SELECT")]

    def session(self, **options: Any) -> Session:
        return Session(self.engine, **options)

    def add(self, *instances: Base) -> None:
        """Store instances; what that emits is forgotten."""
        with self.session() as session, session.begin():
            session.add_all(instances)
        self.forget()

    def forget(self) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM outbox_event")
        self.statements.clear()

    def changes(self) -> list[dict[str, Any]]:
        """What the committed events say, in order."""
        return [orjson.loads(envelope.data) for envelope in read(self.engine)]


def told(operation: str, id: object, before: Any, after: Any) -> dict[str, Any]:  # noqa: A002  # the column
    """The data of an event of a row whose key is its only primary key column."""
    return {
        "operation": operation,
        "key": str(id),
        "identity": {"id": id},
        "before": before,
        "after": after,
    }


def replay(events: Sequence[outbox.Change]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the rows that a consumer makes of the events alone."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for event in events:
        identity = tuple(event.identity.values())
        if event.operation == "deleted":
            row = rows.pop(identity)
            assert row == event.before
        elif event.operation == "created":
            assert identity not in rows
            assert event.after is not None
            rows[identity] = dict(event.after)
        else:
            assert event.before is not None
            assert event.after is not None
            assert event.before.keys() == event.after.keys()
            assert event.before.items() <= rows[identity].items()
            rows[identity] |= event.after
    return rows


def forget_tracking(cls: type) -> None:
    """Let a class of one test be tracked no longer."""
    _trackings.pop(cls, None)
