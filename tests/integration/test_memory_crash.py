"""With the memory transport, a position moves only behind what every group has processed."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.orm import Session

import outbox
from outbox.settings import Settings
from outbox.worker import open_worker
from relay.daemon import Relay, Until
from relay.status import route_status
from tests.integration.consuming import Base, Counted, effects, write

if TYPE_CHECKING:
    import sqlalchemy as sa

GROUPS = ("billing", "audit")
COUNT = 40


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    Base.metadata.create_all(sqlite_engine)
    return sqlite_engine


def settings_of(engine: sa.Engine, **route: Any) -> Settings:
    """Return settings with a broker that nobody has used: that of a process that just started."""
    options = {"transport": "memory", "broker": uuid.uuid4().hex, "lease_seconds": 1, **route}
    url = engine.url.render_as_string(hide_password=False)
    return Settings.model_validate({"database_url": url, "routes": {"m": options}})


def emit(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        for n in range(COUNT):
            outbox.emit(session, Counted(key=f"k{n % 4}", n=n))


def work(engine: sa.Engine, settings: Settings, group: str) -> None:
    consumer = outbox.Consumer(group, database=engine)
    consumer.on(Counted)(write)
    open_worker(consumer, settings).run(threading.Event(), idle_timeout=1)


def backlog(engine: sa.Engine, settings: Settings) -> int | None:
    (status,) = route_status(engine, settings)
    return status.backlog_count


def test_what_a_crash_takes_out_of_memory_is_published_again(engine: sa.Engine) -> None:
    emit(engine)
    before = settings_of(engine, groups=dict.fromkeys(GROUPS, "*"))
    with Relay(before, engine=engine).running():
        work(engine, before, "billing")
        assert len(effects(engine)) == COUNT
    assert backlog(engine, before) == COUNT, "audit never came"
    # With the process all of the broker is gone.
    after = settings_of(engine, groups=dict.fromkeys(GROUPS, "*"))
    with Relay(after, engine=engine).running():
        threads = [threading.Thread(target=work, args=(engine, after, group)) for group in GROUPS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(effects(engine)) == 2 * COUNT, "each group has had one effect of each event"
    assert backlog(engine, after) == 0


def test_where_stored_is_enough_a_crash_loses_what_was_not_processed(engine: sa.Engine) -> None:
    emit(engine)
    before = settings_of(engine, groups={"billing": "*"}, published_when="stored")
    Relay(before, engine=engine).run(until=Until.DRAINED)
    assert backlog(engine, before) == 0
    after = settings_of(engine, groups={"billing": "*"}, published_when="stored")
    Relay(after, engine=engine).run(until=Until.DRAINED)
    work(engine, after, "billing")
    assert effects(engine) == []
