"""The rights that the runbook grants are enough, for roles that own nothing."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

import outbox
from outbox.consumer import Consumer
from outbox.dead_letter import Filter, request
from outbox.settings import Settings
from outbox.settlement import Counts
from outbox.transports.memory import MemoryBroker
from relay.daemon import Relay, Until
from tests.integration.consuming import TYPE, Counted, consume, counted, letters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from outbox.context import Context

RUNBOOK = Path(__file__).parents[2] / "docs" / "operations" / "runbook.md"


@pytest.fixture
def as_role(postgres_engine: sa.Engine) -> Iterator[Callable[[str], sa.Engine]]:
    """Make the runbook's roles, under names of the test's own, and give engines for them."""
    suffix = uuid.uuid4().hex[:8]
    blocks = re.findall(r"```sql\n(.*?)```", RUNBOOK.read_text(encoding="utf-8"), re.DOTALL)
    grants = re.sub(r" TO (\w+);", rf" TO \1_{suffix};", "".join(blocks))
    names = {f"{name}_{suffix}" for name in ("app", "relay", "worker")}
    with postgres_engine.begin() as connection:
        for name in names:
            connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN")
        connection.exec_driver_sql(grants)
    engines: list[sa.Engine] = []

    def make(name: str) -> sa.Engine:
        url = postgres_engine.url.set(username=f"{name}_{suffix}")
        engines.append(sa.create_engine(url, poolclass=sa.NullPool))
        return engines[-1]

    yield make
    with postgres_engine.begin() as connection:
        for name in names:
            connection.exec_driver_sql(f"DROP OWNED BY {name}")
            connection.exec_driver_sql(f"DROP ROLE {name}")


def test_an_application_and_a_relay_do_with_the_rights_of_the_runbook(
    as_role: Callable[[str], sa.Engine],
) -> None:
    with as_role("app").begin() as connection:
        outbox.emit(connection, Counted(key="k", n=1))
        # No name of a topic: a dead letter is written, and the next one parked behind it.
        outbox.emit(connection, Counted(key="bad", n=2), topic="no topic")
        outbox.emit(connection, Counted(key="bad", n=3))
    name = uuid.uuid4().hex
    broker = MemoryBroker.named(name)
    url = as_role("relay").url.render_as_string(hide_password=False)
    route = {"transport": "memory", "broker": name}
    settings = Settings.model_validate({"database_url": url, "routes": {"m": route}})
    summary = Relay(settings).run(until=Until.DRAINED).routes["m"]
    assert (summary.published, summary.dead, summary.parked, summary.error) == (1, 1, 1, None)
    assert len(broker.messages(TYPE.rpartition(".")[0])) == 1


def test_a_worker_does_with_the_rights_of_the_runbook(
    as_role: Callable[[str], sa.Engine], postgres_engine: sa.Engine
) -> None:
    is_broken = True
    consumer = Consumer("tests", database=as_role("worker"))

    @consumer.on(Counted)
    def handle(event: Counted, _context: Context) -> None:
        if is_broken and event.n == 1:
            raise ValueError("broken")

    assert consume(consumer, [counted("k", n) for n in range(3)]) == Counts(
        handled=1, dead=1, parked=1
    )
    is_broken = False
    with postgres_engine.begin() as connection:
        request(connection, Filter())
    assert consume(consumer, []) == Counts(handled=2)
    assert letters(postgres_engine) == []
