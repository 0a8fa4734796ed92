"""outbox.actor: who acts is said once, around what they do."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

import outbox
from outbox.context import cause
from outbox.envelope import Envelope
from tests.emitting import emit

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    """In a transaction that is never committed."""
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, closing(connection.begin()):
        yield connection
    engine.dispose()


def handling(actor: str | None) -> Envelope:
    return Envelope(
        id="e-1", source="/a", type="a.b", time=datetime.now(UTC), data=b"{}", actor=actor
    )


def test_nobody_acts_unless_it_is_said(connection: sa.Connection) -> None:
    assert emit(connection, "a").actor is None


def test_blocks_nest_and_end(connection: sa.Connection) -> None:
    with outbox.actor("user:1"):
        with outbox.actor("user:2"):
            assert emit(connection, "a").actor == "user:2"
        assert emit(connection, "a").actor == "user:1"
        assert emit(connection, "a", actor="user:3").actor == "user:3"
        with pytest.raises(KeyError), outbox.actor("user:4"):
            raise KeyError
        assert emit(connection, "a").actor == "user:1"
    assert emit(connection, "a").actor is None


def test_another_thread_does_not_act_for_it(connection: sa.Connection) -> None:
    found: list[str | None] = []
    with outbox.actor("user:1"):
        thread = threading.Thread(target=lambda: found.append(emit(connection, "a").actor))
        thread.start()
        thread.join()
    assert found == [None]


def test_tasks_act_for_themselves_and_for_those_that_they_start(connection: sa.Connection) -> None:
    async def request(name: str, others: asyncio.Barrier) -> list[str | None]:
        async def part() -> str | None:
            await others.wait()  # all requests are inside their blocks now
            return emit(connection, "a").actor

        with outbox.actor(name):
            parts = [asyncio.create_task(part()), asyncio.create_task(part())]
            return [await task for task in parts]

    async def main() -> None:
        others = asyncio.Barrier(4)
        found = await asyncio.gather(request("user:1", others), request("user:2", others))
        assert list(found) == [["user:1"] * 2, ["user:2"] * 2]

    asyncio.run(main())


def test_a_handler_passes_the_actor_of_its_event_on_unless_it_names_one(
    connection: sa.Connection,
) -> None:
    with outbox.actor("worker"):
        token = cause.set(handling("user:1"))
        try:
            assert emit(connection, "a").actor == "user:1"
            with outbox.actor("billing"):
                assert emit(connection, "a").actor == "billing"
            cause.set(handling(None))
            assert emit(connection, "a").actor == "worker"
        finally:
            cause.reset(token)


@pytest.mark.parametrize("name", ["", None, 42])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(outbox.UsageError, match="user:42"), outbox.actor(name):
        pass


def test_a_name_that_no_database_stores_is_refused_by_emit(connection: sa.Connection) -> None:
    with outbox.actor("a\0b"), pytest.raises(outbox.InvalidEventError, match="actor"):
        emit(connection, "a")
