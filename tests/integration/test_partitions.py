"""Partitions by number, with writers running: what comes, what goes, and who notices."""

from __future__ import annotations

import random
import threading
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

import outbox
from outbox import partitions
from outbox.errors import ConfigurationError, DatabaseUnavailableError
from outbox.settings import RetentionSettings
from outbox.table import outbox_checkpoint
from relay import rotation
from relay.capture.position import LatePass
from relay.capture.snapshot import LATE_LIMIT, _reading_on, _reading_pass
from relay.daemon import Relay
from relay.rebase import rebase
from tests.capturing import connect, writers
from tests.explaining import FILL, explain, tell_plans, touched
from tests.integration.consuming import Counted
from tests.partitioning import fill, names, retain, run
from tests.retaining import broker_of, deliver, emit, settings, stored, swept
from tests.waiting import eventually

ROWS = 100


@pytest.fixture
def engine(postgres_engine: sa.Engine) -> sa.Engine:
    """A database whose events are in partitions of 100."""
    with postgres_engine.begin() as connection:
        partitions.convert(connection, ROWS)
    return postgres_engine


def test_whole_partitions_go_and_new_ones_come_while_nobody_waits(
    postgres_engine: sa.Engine,
) -> None:
    """Writers whose locks time out at once, a relay, and passes without a pause."""
    engine = postgres_engine
    with engine.begin() as connection:
        partitions.convert(connection, 1_000)
    given = settings(engine, "a", events="0s")
    only_relaying = given.model_copy(update={"retention": RetentionSettings()})
    broker = broker_of(given)
    committed: list[int] = []
    stopping = threading.Event()
    failures: list[Exception] = []

    def write(seed: int) -> None:
        dice = random.Random(seed)
        try:
            with writers(engine.url.render_as_string(hide_password=False), 1) as (one,):
                one.run("SET lock_timeout = '100ms'")
                one.commit()
                while not stopping.is_set():
                    seqs = [one.emit() for _ in range(dice.randint(1, 30))]
                    stopping.wait(dice.choice([0, 0.001, 0.05]))
                    if dice.random() < 0.1:
                        one.rollback()
                    else:
                        one.commit()
                        committed.extend(seqs)
        except psycopg.Error as exc:
            failures.append(exc)

    def dropped() -> int:
        try:
            return swept(engine, given).deleted.get("partitions", 0)
        except DatabaseUnavailableError:  # a writer has the partition, or knows of it still
            with engine.begin() as connection:
                connection.execute(
                    sa.update(outbox_checkpoint)
                    .values(expires_at=None)
                    .where(outbox_checkpoint.c.route == "@retention")
                )
            return 0

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    with Relay(only_relaying, engine=engine).running():
        for thread in threads:
            thread.start()
        try:
            for _ in range(4):
                eventually(lambda: dropped() or failures)
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
        eventually(lambda: len(broker.messages("test")) >= len(committed))
    assert failures == []
    assert len(broker.messages("test")) == len(committed) == len(set(committed))
    assert names(engine)[0] != "outbox_event_p1"


def test_only_what_is_delivered_and_old_goes(engine: sa.Engine) -> None:
    emit(engine, 1)
    run(engine, fill(249))
    first, second, third, *_ = names(engine)
    given = settings(engine, "a", events="50s")
    deliver(engine, "a", count=150)
    assert swept(engine, given).deleted == {"partitions": 0}  # its last event is young
    state = retain(engine)
    assert state.deleted == {"partitions": 1}
    assert state.walks["events"].held == "route a has not delivered older events yet"
    assert names(engine)[:2] == [second, third]
    assert first == "outbox_event_p1"
    assert run(engine, "SELECT to_regclass('outbox_event_p1')").scalar() is None
    deliver(engine, "a")
    state = retain(engine)
    assert (state.deleted, state.walks["events"].held) == ({"partitions": 1}, None)
    assert stored(engine) == list(range(201, 251))


def test_a_relay_makes_partitions_even_where_nothing_is_ever_deleted(engine: sa.Engine) -> None:
    run(engine, fill(450))
    with Relay(settings(engine, "a"), engine=engine).running():
        eventually(lambda: len(names(engine)) == 15)
    assert names(engine)[0] == "outbox_event_p1"


def test_a_position_is_rebased_over_partitions(engine: sa.Engine) -> None:
    run(engine, fill(150))
    deliver(engine, "a", count=120)
    run(
        engine,
        "UPDATE outbox_checkpoint SET position = jsonb_set(position, '{server,system}', '\"1\"')",
    )
    assert retain(engine).walks["events"].held == (
        "route a: its position was made on another database server; run `outbox relay --rebase`"
    )
    assert rebase(engine, "a").count == 0
    assert retain(engine).deleted == {"partitions": 1}
    with pytest.raises(sa.exc.IntegrityError, match="outbox_event_own"):
        run(engine, "UPDATE outbox_event SET type = 'other'")


def test_the_table_keeps_its_numbers_owner_rights_and_schema(
    postgres_engine: sa.Engine,
) -> None:
    owner = "partition_owner"
    try:
        run(postgres_engine, f"CREATE ROLE {owner}")
        run(postgres_engine, 'CREATE SCHEMA "Own"')
        run(postgres_engine, 'ALTER TABLE outbox_event SET SCHEMA "Own"')
        run(postgres_engine, f'ALTER TABLE "Own".outbox_event OWNER TO {owner}')
        run(postgres_engine, 'GRANT INSERT ON "Own".outbox_event TO PUBLIC')
        run(postgres_engine, f'GRANT ALL ON SCHEMA "Own" TO {owner}')
        with postgres_engine.begin() as connection:
            connection.exec_driver_sql('SET LOCAL search_path = public, "Own"')
            connection.exec_driver_sql(fill(5))
            connection.exec_driver_sql("DELETE FROM outbox_event")
            partitions.convert(connection, ROWS)
            connection.exec_driver_sql(fill(1))
            assert connection.scalar(sa.text("SELECT max(seq) FROM outbox_event")) == 6
            found = connection.execute(
                sa.text(
                    "SELECT DISTINCT relowner::regrole::text, relnamespace::regnamespace::text"
                    " FROM pg_class WHERE relname ~ '^outbox_event' AND relkind IN ('r', 'p', 'S')"
                )
            ).all()
            assert found == [(owner, '"Own"')]
            assert connection.scalar(
                sa.text("SELECT relacl::text FROM pg_class WHERE oid = 'outbox_event'::regclass")
            ).endswith("=a/partition_owner}")
    finally:
        run(postgres_engine, f"DROP OWNED BY {owner} CASCADE")
        run(postgres_engine, f"DROP ROLE {owner}")


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (fill(1), "outbox_event has rows, and is divided only while it is empty"),
        (
            "CREATE TRIGGER mine BEFORE UPDATE ON outbox_event EXECUTE FUNCTION nothing()",
            "the trigger mine would be lost",
        ),
        ("CREATE PUBLICATION news FOR TABLE outbox_event", "the publication news would be lost"),
    ],
)
def test_a_table_with_something_to_lose_is_left_alone(
    postgres_engine: sa.Engine, before: str, reason: str
) -> None:
    run(
        postgres_engine,
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    )
    run(postgres_engine, before)
    with pytest.raises(ConfigurationError, match=reason), postgres_engine.begin() as connection:
        partitions.convert(connection, ROWS)


@pytest.mark.parametrize("is_planned_once", [True, False])
@pytest.mark.parametrize("is_analyzed", [True, False])
def test_a_page_reads_nothing_but_its_own_ranges_of_thirty_partitions(
    postgres_engine: sa.Engine, postgres_url: str, *, is_analyzed: bool, is_planned_once: bool
) -> None:
    with postgres_engine.begin() as connection:
        partitions.convert(connection, 10_000)
    with connect(postgres_url, autocommit=True) as table:
        tell_plans(table, is_planned_once=is_planned_once)
        for _ in range(4):
            table.execute(FILL.format(50_000).encode())
            rotation.make_ahead(postgres_engine)
        if is_analyzed:
            table.execute("VACUUM ANALYZE outbox_event")
        row = table.execute(
            "SELECT pg_current_snapshot()::text, max(transaction_id::text::bigint)"
            " FROM outbox_event"
        ).fetchone()
        assert row is not None
        snapshot, last = row
        for floor in (0, 95_000, 200_000):
            parameters = {"floor": floor, "late": LATE_LIMIT, "fresh": 2_000}
            check(explain(table, _reading_on(snapshot) | parameters), 1_000)
        rest = _reading_pass(LatePass("", (last,), cursor=196_000))
        plan = explain(table, rest | {"fresh": 0, "floor": 200_000, "late": LATE_LIMIT})
        assert plan[0]["Actual Rows"] == LATE_LIMIT + 1
        check(plan, 5 * LATE_LIMIT + 30 * 5)


def check(plan: list[dict[str, Any]], blocks: int) -> None:
    scans = [node for node in plan if "outbox_event" in node.get("Relation Name", "")]
    assert [node for node in scans if node.get("Rows Removed by Filter", 0)] == []
    assert sum(node["Actual Rows"] for node in scans if node["Node Type"] == "Seq Scan") == 0
    assert touched(plan) < blocks


def test_emit_takes_no_notice(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for number in range(250):
            outbox.emit(connection, Counted(key="k", n=number))
    assert len(stored(engine)) == 250
