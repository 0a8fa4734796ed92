"""emit on a Session: after the state, in one statement, in the same transaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import outbox
from outbox.errors import NoTransactionError, UsageError
from tests.emitting import Base, Order, Shop, emit, emit_all_attributes, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm.session import JoinTransactionMode


@pytest.fixture(params=["postgres", "mariadb"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return Shop(request.getfixturevalue(f"{request.param}_engine"))


@pytest.fixture
def postgres_shop(postgres_engine: sa.Engine) -> Shop:
    return Shop(postgres_engine)


@pytest.fixture
def sqlite_shop(sqlite_engine: sa.Engine) -> Shop:
    return Shop(sqlite_engine)


@pytest.fixture
def broken_outbox(shop: Shop) -> Shop:
    """Its outbox refuses every event called `bad`."""
    is_mariadb = shop.engine.dialect.name == "mariadb"
    good = "NOT subject <=> 'bad'" if is_mariadb else "subject IS DISTINCT FROM 'bad'"
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE outbox_event ADD CHECK ({good})")
    return shop


def test_events_follow_the_state_in_one_statement_before_the_commit(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        emit(session, "a")
        session.add(Order(name="x"))
        emit(session, "b")
        assert shop.writes == []
    assert shop.writes == ["shop_order", "outbox_event", "COMMIT"]
    assert shop.names() == ["a", "b"]


@pytest.mark.parametrize("count", [1, 2, 10, 300])
def test_many_events_cost_one_statement(shop: Shop, count: int) -> None:
    with Session(shop.engine) as session, session.begin():
        for number in range(count):
            emit(session, str(number))
    assert shop.writes == ["outbox_event", "COMMIT"]
    assert shop.names() == [str(number) for number in range(count)]


def test_many_events_cost_one_statement_on_sqlite(sqlite_shop: Shop) -> None:
    with Session(sqlite_shop.engine) as session, session.begin():
        session.add(Order(name="x"))
        for number in range(10):
            emit(session, str(number))
    assert sqlite_shop.writes == ["shop_order", "outbox_event", "COMMIT"]
    assert sqlite_shop.names() == [str(number) for number in range(10)]


def test_a_session_without_state_still_writes_its_events(shop: Shop) -> None:
    with Session(shop.engine) as session:
        session.begin()
        emit(session, "a")
        session.commit()
    assert shop.names() == ["a"]


def test_a_session_that_has_not_begun_is_refused(shop: Shop) -> None:
    with Session(shop.engine) as session:
        with pytest.raises(NoTransactionError, match="no transaction is open on this Session"):
            emit(session, "a")
        session.begin()
        session.commit()
        with pytest.raises(NoTransactionError):
            emit(session, "b")
    assert shop.names() == []


def test_adding_or_changing_an_object_begins_the_transaction(shop: Shop) -> None:
    with Session(shop.engine, expire_on_commit=False) as session:
        order = Order(name="x")
        session.add(order)
        emit(session, "a")
        session.commit()
        order.name = "y"
        emit(session, "b")
        session.commit()
    assert shop.names() == ["a", "b"]


def test_a_failed_flush_refuses_events_until_the_rollback(shop: Shop) -> None:
    with Session(shop.engine) as session:
        session.add(Order(id=1, name="x"))
        session.flush()
        emit(session, "a")
        session.expunge_all()
        session.add(Order(id=1, name="twice"))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()
        with pytest.raises(NoTransactionError, match="has failed"):
            emit(session, "b")
        session.rollback()
        session.add(Order(id=1, name="x"))
        emit(session, "c")
        session.commit()
    assert shop.names() == ["c"]


@pytest.mark.parametrize("autoflush", [True, False])
def test_events_are_written_by_the_next_flush(shop: Shop, *, autoflush: bool) -> None:
    with Session(shop.engine, autoflush=autoflush) as session, session.begin():
        session.add(Order(name="x"))
        emit(session, "a")
        session.execute(sa.select(Order)).all()
        assert shop.writes == (["shop_order", "outbox_event"] if autoflush else [])
        emit(session, "b")
        session.flush()
        emit(session, "c")
        session.flush()
    assert shop.names() == ["a", "b", "c"]


def test_a_flush_without_state_writes_nothing(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        emit(session, "a")
        session.flush()
        assert shop.writes == []
        with session.no_autoflush:
            session.add(Order(name="x"))
            emit(session, "b")
            session.execute(sa.select(Order)).all()
            assert shop.writes == []
    assert shop.writes == ["shop_order", "outbox_event", "COMMIT"]
    assert shop.names() == ["a", "b"]


@pytest.mark.parametrize("end", ["close", "rollback", "reset", "invalidate"])
def test_a_session_that_ends_otherwise_drops_its_events(shop: Shop, end: str) -> None:
    session = Session(shop.engine)
    session.add(Order(name="x"))
    emit(session, "a")
    getattr(session, end)()
    session.add(Order(name="x"))
    emit(session, "b")
    session.commit()
    session.close()
    assert shop.names() == ["b"]


def test_raw_sql_and_bulk_operations_come_before_the_event(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        session.execute(sa.text("INSERT INTO shop_order (name) VALUES ('raw')"))
        emit(session, "a")
        session.execute(sa.text("UPDATE shop_order SET total = 1"))
        session.bulk_save_objects([Order(name="b")])
        session.bulk_insert_mappings(Order, [{"name": "m"}])
        emit(session, "b")
        session.execute(sa.insert(Order), [{"name": "q"}])
        session.execute(sa.update(Order).values(total=2))
        emit(session, "c")
    assert shop.writes[-2:] == ["outbox_event", "COMMIT"]
    assert shop.writes.count("outbox_event") == 1
    assert shop.names() == ["a", "b", "c"]


@pytest.mark.parametrize("is_clean", [True, False])
def test_a_refused_event_never_lets_the_state_commit(
    broken_outbox: Shop, *, is_clean: bool
) -> None:
    with Session(broken_outbox.engine) as session:
        if is_clean:
            session.execute(sa.text("INSERT INTO shop_order (name) VALUES ('raw')"))
        else:
            session.add(Order(name="x"))
        emit(session, "a", subject="bad")
        with pytest.raises(sa.exc.DBAPIError):
            session.commit()
        with pytest.raises(sa.exc.SQLAlchemyError):
            session.commit()
        session.rollback()
    assert broken_outbox.names() == []
    assert broken_outbox.orders() == 0


@pytest.mark.parametrize("is_clean", [True, False])
def test_on_sqlite_a_refused_event_stays_pending_so_that_no_commit_passes(
    sqlite_shop: Shop, *, is_clean: bool
) -> None:
    with sqlite_shop.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON outbox_event WHEN NEW.subject = 'bad'"
            " BEGIN SELECT RAISE(FAIL, 'refused'); END"
        )
    with Session(sqlite_shop.engine) as session:
        if is_clean:
            session.execute(sa.text("INSERT INTO shop_order (name) VALUES ('raw')"))
        else:
            session.add(Order(name="x"))
        emit(session, "a", subject="bad")
        for _ in range(3):
            with pytest.raises(sa.exc.SQLAlchemyError):
                session.commit()
        session.rollback()
        emit_after = session.begin()
        emit(session, "b")
        emit_after.commit()
    assert sqlite_shop.names() == ["b"]
    assert sqlite_shop.orders() == 0


@pytest.mark.parametrize(
    "mode", ["create_savepoint", "rollback_only", "control_fully", "conditional_savepoint"]
)
def test_a_session_joined_to_an_outer_transaction_writes_into_it(
    shop: Shop, mode: JoinTransactionMode
) -> None:
    count = sa.text("SELECT count(*) FROM outbox_event")
    with shop.engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            session.add(Order(name="x"))
            emit(session, "a")
            session.commit()
            assert connection.execute(count).scalar() == 1
            if mode == "create_savepoint":
                session.begin()
                emit(session, "b")
                session.rollback()
                session.begin()
                session.begin_nested()
                emit(session, "c")
                session.commit()
                assert connection.execute(count).scalar() == 2
        if transaction.is_active:
            transaction.rollback()
    assert shop.names() == (["a"] if mode == "control_fully" else [])


def test_a_scoped_session_serves_as_well(shop: Shop) -> None:
    scoped = scoped_session(sessionmaker(shop.engine))
    scoped.begin()
    emit(scoped, "a")
    scoped.commit()
    scoped.begin()
    emit(scoped, "b")
    scoped.remove()
    scoped.begin()
    scoped.commit()
    scoped.remove()
    assert shop.names() == ["a"]


def test_subclasses_and_sessionmakers_with_info_serve_as_well(shop: Shop) -> None:
    class Own(Session):
        """An application's own."""

    with Own(shop.engine) as own, own.begin():
        emit(own, "a")
    with sessionmaker(shop.engine, info={"x": 1})() as session, session.begin():
        emit(session, "b")
    assert shop.names() == ["a", "b"]


def test_a_session_with_binds_has_to_know_the_database_of_the_outbox(shop: Shop) -> None:
    with Session(binds={Order: shop.engine}) as session:
        session.begin()
        with pytest.raises(UsageError, match="no database for outbox_event"):
            emit(session, "a")
    table = outbox.metadata.tables["outbox_event"]
    for key in (Order, Base):
        with Session(binds={key: shop.engine, table: shop.engine}) as session:
            session.add(Order(name="x"))
            emit(session, "b")
            session.commit()
    assert shop.names() == ["b", "b"]


def test_a_session_that_routes_writes_elsewhere_writes_its_events_there(
    shop: Shop, sqlite_engine: sa.Engine
) -> None:
    class Routing(Session):
        def get_bind(self, *_: Any, clause: Any = None, **__: Any) -> sa.Engine:
            is_write = self._flushing or isinstance(clause, sa.Insert)
            return shop.engine if is_write else sqlite_engine

    with Routing() as session, session.begin():
        emit(session, "a")
    assert shop.names() == ["a"]


def test_autocommit_is_refused(shop: Shop) -> None:
    with Session(shop.engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        session.begin()
        with pytest.raises(NoTransactionError, match="AUTOCOMMIT"):
            emit(session, "at the call")
    engine = sa.create_engine(shop.engine.url, isolation_level="AUTOCOMMIT")
    with Session(engine) as session:
        session.begin()
        emit(session, "before the commit")
        with pytest.raises(NoTransactionError, match="AUTOCOMMIT"):
            session.commit()
        session.rollback()
    engine.dispose()
    assert shop.names() == []


def test_sqlite_in_autocommit_is_refused_and_its_own_begin_is_not(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url, isolation_level="AUTOCOMMIT")
    with Session(engine) as session:
        session.begin()
        emit(session, "a")
        with pytest.raises(NoTransactionError, match="AUTOCOMMIT"):
            session.commit()
        session.rollback()
    engine.dispose()
    for connection in _engine_with_own_begin(sqlite_url):
        with Session(connection) as session, session.begin():
            emit(session, "b")
            with session.begin_nested() as savepoint:
                emit(session, "c")
                session.execute(sa.text("SELECT 1"))
                savepoint.rollback()
        shop = Shop(connection)
        assert shop.names() == ["b"]


def _engine_with_own_begin(url: str) -> Iterator[sa.Engine]:
    """The way in which SQLAlchemy's manual makes savepoints right on SQLite."""
    engine = sa.create_engine(url)

    def connect(driver: Any, _record: object) -> None:
        driver.isolation_level = None

    sa.event.listen(engine, "connect", connect)
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    yield engine
    engine.dispose()


def test_a_commit_that_fails_takes_the_events_with_it(postgres_shop: Shop) -> None:
    with Session(postgres_shop.engine) as session:
        session.begin()
        emit(session, "a")
        session.execute(sa.text("CREATE TEMP TABLE d (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        session.execute(sa.text("INSERT INTO d VALUES (1), (1)"))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
        session.rollback()
        session.begin()
        emit(session, "b")
        session.commit()
    assert postgres_shop.names() == ["b"]


def test_two_phase_commits_take_the_events_with_them(shop: Shop) -> None:
    with Session(shop.engine, twophase=True) as session:
        session.add(Order(name="x"))
        emit(session, "a")
        session.prepare()
        with pytest.raises(NoTransactionError, match="has failed or is ending"):
            emit(session, "too late")
        assert shop.names() == []
        session.commit()
        session.begin()
        emit(session, "b")
        session.commit()
        session.begin()
        emit(session, "c")
        session.prepare()
        session.rollback()
    assert shop.names() == ["a", "b"]


def test_a_renamed_schema_is_respected(postgres_shop: Shop) -> None:
    with postgres_shop.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA tenant")
        connection.exec_driver_sql("ALTER TABLE outbox_event SET SCHEMA tenant")
    engine = postgres_shop.engine.execution_options(schema_translate_map={None: "tenant"})
    with Session(engine) as session, session.begin():
        emit(session, "a")
        emit(session, "b", headers={"x": "y"})
    with postgres_shop.engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT headers FROM tenant.outbox_event ORDER BY seq")
        assert found.scalars().all() == [{}, {"x": "y"}]


HOSTILE = ['"', "\\", "{}", "NULL", ",", "'", "%s", "$1", " ", "\n", "ü😀", '\\"{\\\\,}', ":x"]


def test_the_attributes_of_many_events_arrive_as_they_were_given(shop: Shop) -> None:
    with Session(shop.engine) as session, session.begin():
        given = [emit_all_attributes(session, text) for text in HOSTILE]
    assert read(shop.engine) == given


@pytest.mark.parametrize("text", HOSTILE)
def test_the_attributes_of_one_event_arrive_as_they_were_given(shop: Shop, text: str) -> None:
    with Session(shop.engine) as session, session.begin():
        given = emit_all_attributes(session, text)
    assert read(shop.engine) == [given]


def test_the_attributes_arrive_on_sqlite_as_they_were_given(sqlite_shop: Shop) -> None:
    with Session(sqlite_shop.engine) as session, session.begin():
        given = [emit_all_attributes(session, text) for text in HOSTILE]
    assert read(sqlite_shop.engine) == given


def test_a_time_arrives_from_any_time_zone(shop: Shop) -> None:
    local_mean_time = timezone(timedelta(minutes=53, seconds=28))
    moments = [datetime(1893, 1, 2, 3, 4, 5, 6, tzinfo=zone) for zone in (UTC, local_mean_time)]
    with Session(shop.engine) as session, session.begin():
        for moment in moments:
            emit(session, "a", time=moment)
    assert [envelope.time for envelope in read(shop.engine)] == moments


def test_many_events_cost_one_round_trip_to_mariadb(mariadb_engine: sa.Engine) -> None:
    sent = "SHOW SESSION STATUS LIKE 'Com_insert'"
    with mariadb_engine.begin() as connection, Session(connection) as session:
        before = connection.exec_driver_sql(sent).one()[1]
        session.begin()
        for number in range(10):
            emit(session, str(number))
        session.commit()
        after = connection.exec_driver_sql(sent).one()[1]
    assert int(after) - int(before) == 1
