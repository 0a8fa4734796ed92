"""What may be written with `outbox.emit`, and what a type checker refuses."""

from __future__ import annotations

import sqlite3  # noqa: TC003  # mypy and pyright read it
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, assert_type

from pydantic import BaseModel

import outbox

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session


@outbox.event("typing.model", key="name")
class Model(BaseModel):
    name: str


@outbox.event("typing.dataclass", version=2)
@dataclass
class Data:
    name: str


@outbox.event("typing.dict")
class Dict(TypedDict):
    name: str


def the_decorator_keeps_the_class() -> None:
    assert_type(Model(name="a").name, str)
    assert_type(Data("a"), Data)
    assert_type(Dict(name="a")["name"], str)
    Data(1)  # type: ignore[arg-type]  # the dataclass is still checked


def every_target_is_taken(
    session: Session,
    scoped: scoped_session[Session],
    async_session: AsyncSession,
    async_scoped: async_scoped_session[AsyncSession],
    connection: sa.Connection,
    async_connection: AsyncConnection,
    driver: psycopg.Connection[Any],
    lite: sqlite3.Connection,
) -> None:
    event = Model(name="a")
    assert_type(outbox.emit(session, event), outbox.Envelope)
    outbox.emit(scoped, event)
    outbox.emit(async_session, event, key="k", headers={"a": "b"})
    outbox.emit(async_scoped, event)
    outbox.emit(connection, event)
    outbox.emit(async_connection, event)
    outbox.emit(driver, event)
    outbox.emit(lite, event)


def what_cannot_serve_is_refused(
    engine: sa.Engine, driver: psycopg.AsyncConnection[Any], session: Session
) -> None:
    outbox.emit(engine, Model(name="a"))  # type: ignore[arg-type]  # no transaction
    outbox.emit(driver, Model(name="a"))  # type: ignore[arg-type]  # nothing to await
    outbox.emit(session, Model(name="a"), time="now")  # type: ignore[arg-type]  # a datetime
    outbox.emit(session, Model(name="a"), unknown=1)  # type: ignore[call-arg]  # no such attribute


def a_context_and_a_publisher_take_the_same(
    context: outbox.Context, publisher: outbox.EventPublisher
) -> None:
    assert_type(context.emit(Model(name="a"), subject="s"), outbox.Envelope)
    with publisher.transaction() as session:
        assert_type(publisher.publish(Model(name="a"), key="k"), outbox.Envelope)
        session.flush()
    context.emit(Model(name="a"), unknown=1)  # type: ignore[call-arg]  # no such attribute
