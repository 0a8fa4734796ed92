"""What docs/guide/memory.md shows runs, and does what it says."""

from __future__ import annotations

import threading
import tomllib
import uuid
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

import outbox
from outbox import testing
from outbox.settings import Settings
from outbox.transports import memory
from relay.status import route_status
from relay.term import PUBLISH_SHARE
from tests.integration.consuming import TYPE, Counted
from tests.pages import block, page
from tests.waiting import eventually

if TYPE_CHECKING:
    import pytest
    import sqlalchemy as sa

PAGE = page("guide/memory.md")
COUNT = 30


def settings_of(engine: sa.Engine) -> tuple[str, Settings]:
    """Return the page's settings, but for a broker of the test's own and our events."""
    (route,) = tomllib.loads(block(PAGE, "toml"))["routes"].values()
    name = uuid.uuid4().hex
    route |= {"broker": name, "groups": dict.fromkeys(route["groups"], "tests.*")}
    url = engine.url.render_as_string(hide_password=False)
    return name, Settings.model_validate({"database_url": url, "routes": {"local": route}})


def test_one_process_relays_and_consumes(
    sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, settings = settings_of(sqlite_engine)
    monkeypatch.setattr("outbox.settings.load", lambda: settings)
    seen: dict[str, list[int]] = {"billing": [], "audit": []}

    def consumer(group: str) -> outbox.Consumer:
        made = outbox.Consumer(group, database=sqlite_engine)

        @made.on(Counted)
        def handle(event: Counted, _context: Any) -> None:
            if group == "audit":
                assert event.n in seen["billing"], "billing comes first"
            seen[group].append(event.n)

        return made

    def serve() -> None:
        with Session(sqlite_engine) as session, session.begin():
            for n in range(COUNT):
                outbox.emit(session, Counted(key=f"k{n % 3}", n=n))
        eventually(lambda: len(seen["audit"]) == COUNT)
        broker = memory.MemoryBroker.named(name)
        assert broker.close(timeout=10)
        stop.set()

    stop = threading.Event()
    names: dict[str, Any] = {each: consumer(each) for each in ("billing", "audit")}
    names |= {"Thread": threading.Thread, "stop": stop, "serve": serve}
    exec(block(PAGE, "python", "open_worker"), names)  # noqa: S102  # a page of ours
    (status,) = route_status(sqlite_engine, settings)
    assert status.backlog_count == 0
    assert sorted(seen["billing"]) == list(range(COUNT))


def test_the_ring_is_used_as_the_page_shows() -> None:
    charged: list[int] = []
    names: dict[str, Any] = {"RingBuffer": memory.RingBuffer, "charge": charged.extend}
    names |= {"order": 1, "orders": [2, 3]}
    exec(block(PAGE, "python", "RingBuffer"), names)  # noqa: S102  # a page of ours
    threads = [threading.Thread(target=names[each]) for each in ("produce", "charge_all")]
    threads.append(threading.Thread(target=lambda: list(names["journal"])))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert charged == [1, 2, 3]


def test_the_page_has_every_setting_with_its_default() -> None:
    rows = [line.split("|")[1:3] for line in PAGE.splitlines() if line.startswith("| `")]
    told = {name.strip(" `"): default.strip(" `") for name, default in rows}
    fields = memory.Options.model_fields
    expected = {name: str(field.get_default() or "none") for name, field in fields.items()}
    assert told == expected


def test_the_page_tells_how_long_a_publisher_waits() -> None:
    assert f"{PUBLISH_SHARE * memory.WAITING_SHARE:.2f} of `lease_seconds`" in PAGE


def test_the_page_tells_what_status_says_of_a_slow_group() -> None:
    options = memory.Options(broker=uuid.uuid4().hex, groups={"audit": "*"})
    (outcome,) = memory.publisher("r", options, 0.01).publish(testing.numbered(TYPE, 1))
    assert str(getattr(outcome, "error", "")) in block(PAGE, "text")
