"""The demo as a newcomer runs it, and its figures counted again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient

from outbox.demo import billing, shop
from outbox.demo.counting import Counts, count
from tests.acceptance.cli import Program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def expect_the_story(found: dict[str, Any], placed: int) -> None:
    """Hold the figures against what the story does to both shops."""
    naive, outbox = found["naive"], found["outbox"]
    assert naive["orders_committed"] == outbox["orders_committed"]
    assert outbox["orders_committed"] + found["orders_declined"] == placed
    assert found["orders_declined"] > 0
    assert found["messages_repeated"] > 0
    assert outbox == {
        "orders_committed": outbox["orders_committed"],
        "events_delivered": outbox["orders_committed"],
        "events_lost": 0,
        "doubled_effects": 0,
        "phantom_effects": 0,
        "out_of_order": 0,
        "is_perfect": True,
    }
    assert naive["events_lost"] > 1  # the crash, and the outage
    assert naive["events_lost"] + naive["events_delivered"] == naive["orders_committed"]
    assert naive["doubled_effects"] >= found["messages_repeated"]
    assert naive["is_perfect"] is False


def test_the_demo_tells_its_story_and_ends_well(tmp_path: Path) -> None:
    # A database of the environment is not the demo's to touch.
    done = Program(tmp_path).run("demo", OUTBOX_DATABASE_URL="sqlite:////nowhere/shop.db")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert "Two shops take the same orders, on SQLite and an in-memory broker." in lines
    (lost,) = [line.split() for line in lines if line.strip().startswith("events lost")]
    assert int(lost[-2]) > int(lost[-1]) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_figures_of_the_demo_for_scripts(tmp_path: Path) -> None:
    done = Program(tmp_path).run("demo", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    expect_the_story(json.loads(done.stdout), placed=300 + 1 + 80 + 120)


def test_the_demo_on_a_terminal_shows_a_bar_and_fits_80_columns(tmp_path: Path) -> None:
    code, shown = Program(tmp_path).on_terminal("demo")
    assert code == 0
    assert "/600" in shown
    assert "counted from the two databases" in shown


@pytest.mark.timeout(300)
def test_the_demo_on_servers_kills_processes_and_leaves_nothing_behind(
    tmp_path: Path, postgres_server: sa.URL, kafka_server: str
) -> None:
    done = Program(tmp_path, seconds=240).run(
        "demo",
        "--kafka",
        "--json",
        "--database-url",
        postgres_server.render_as_string(hide_password=False),
        "--bootstrap-servers",
        kafka_server,
    )
    assert done.returncode == 0, done.stderr
    expect_the_story(json.loads(done.stdout), placed=300 + 1 + 80 + 120)
    engine = sa.create_engine(postgres_server, poolclass=sa.NullPool)
    with engine.connect() as connection:
        databases = connection.scalars(sa.text("SELECT datname FROM pg_database")).all()
    assert not [name for name in databases if name.startswith("outbox-demo-")]
    admin = AdminClient({"bootstrap.servers": kafka_server})
    topics = admin.list_topics(timeout=10).topics
    assert not [name for name in topics if name.startswith("outbox-demo-")]
    groups = [group.group_id for group in admin.list_consumer_groups().result().valid]
    assert not [name for name in groups if name.startswith("outbox-demo-")]


@pytest.fixture
def books() -> Iterator[sa.Engine]:
    """The tables of the shop and of billing, to be filled by hand."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    shop.Base.metadata.create_all(engine)
    billing.Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def fill(engine: sa.Engine, orders: list[tuple[str, int]], invoices: list[tuple[str, int]]) -> None:
    """Store orders and invoices of one customer, by id and number."""
    tables = ((shop.Order, "id", orders), (billing.Invoice, "order_id", invoices))
    with engine.begin() as connection:
        for table, name, rows in tables:
            for value, number in rows:
                row = {name: value, "customer_id": "c", "number": number, "total_cents": 1}
                connection.execute(sa.insert(table), row)


def test_what_is_lost_doubled_phantom_and_out_of_order_is_counted(books: sa.Engine) -> None:
    fill(
        books,
        orders=[("a", 1), ("b", 2), ("c", 3), ("d", 4)],
        invoices=[("a", 1), ("c", 3), ("b", 2), ("a", 1), ("x", 4)],
    )
    assert count(books) == Counts(
        orders_committed=4,
        events_delivered=3,
        events_lost=1,
        doubled_effects=1,
        phantom_effects=1,
        out_of_order=1,
    )


@pytest.mark.parametrize(
    "invoices",
    [
        [],
        [("a", 1)],
        [("a", 1), ("b", 2), ("b", 2)],
        [("b", 2), ("a", 1)],
        [("a", 1), ("b", 2), ("x", 3)],
    ],
)
def test_one_wrong_invoice_is_not_perfect(
    books: sa.Engine, invoices: list[tuple[str, int]]
) -> None:
    fill(books, [("a", 1), ("b", 2)], invoices)
    assert not count(books).is_perfect


def test_one_invoice_an_order_in_order_is_perfect(books: sa.Engine) -> None:
    fill(books, [("a", 1), ("b", 2)], [("a", 1), ("b", 2)])
    assert count(books).is_perfect


def test_no_order_at_all_is_no_success(books: sa.Engine) -> None:
    assert not count(books).is_perfect
