"""The relay's connections to MariaDB: what is given up, by whom, and what each error means."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pymysql
import pytest
import sqlalchemy as sa

from outbox.errors import ConfigurationError, DatabaseUnavailableError
from outbox.table import outbox_checkpoint
from relay import lease
from relay.database import IDLE_SECONDS, LOCK_SECONDS, errors, make_engine, transaction
from relay.lease import Held
from tests.fix_mariadb import PASSWORD, administer
from tests.locked import await_waiters

if TYPE_CHECKING:
    from tools.servers import MariaDbServer


def raised(url: sa.URL) -> Exception:
    """Return what the first statement on a URL raises, which must not tell the password."""
    engine = make_engine(url)
    with (
        pytest.raises((ConfigurationError, DatabaseUnavailableError)) as caught,
        transaction(engine) as connection,
    ):
        connection.execute(sa.select(outbox_checkpoint))
    engine.dispose()
    assert PASSWORD not in str(caught.value)
    return caught.value


def test_sessions_of_a_relay_are_read_committed_in_utc(mariadb_relay_engine: sa.Engine) -> None:
    with transaction(mariadb_relay_engine) as connection:
        row = connection.exec_driver_sql(
            "SELECT @@tx_isolation, @@time_zone, @@idle_transaction_timeout"
        ).one()
        shown = connection.exec_driver_sql(
            "SELECT ATTR_VALUE FROM performance_schema.session_connect_attrs"
            " WHERE ATTR_NAME = 'program_name' AND PROCESSLIST_ID = CONNECTION_ID()"
        ).scalar()
    assert tuple(row) == ("READ-COMMITTED", "+00:00", IDLE_SECONDS)
    assert shown in ("outbox relay", None)  # None where the performance schema is off


def test_a_holder_that_is_frozen_in_a_transaction_does_not_keep_its_route(
    mariadb_relay_engine: sa.Engine,
) -> None:
    engine = mariadb_relay_engine
    with transaction(engine) as connection:
        lease.acquire(connection, "kafka", "frozen", 60)
    with engine.connect() as frozen:
        lease.renew(frozen, "kafka", 1, 0, 60)
        started = time.monotonic()
        with transaction(engine) as other:
            # It waits for the row until the server ends the transaction that has changed it.
            assert lease.resign(other, "kafka", 1)
        assert IDLE_SECONDS / 2 < time.monotonic() - started < IDLE_SECONDS + 5
        with pytest.raises(DatabaseUnavailableError), errors(engine):
            lease.renew(frozen, "kafka", 1, 0, 60)
    with transaction(engine) as connection:
        assert not isinstance(lease.acquire(connection, "kafka", "other", 60), Held)


def test_a_server_that_hangs_is_given_up(own_mariadb: MariaDbServer) -> None:
    engine = make_engine(sa.make_url(own_mariadb.url() + "?read_timeout=1"))
    with transaction(engine) as connection:
        assert connection.scalar(sa.select(1)) == 1
    own_mariadb.pause()
    for _ in ("on a connection that is there", "on a new one"):
        with (
            pytest.raises(DatabaseUnavailableError, match="does not answer"),
            transaction(engine) as connection,
        ):
            connection.scalar(sa.select(1))
    own_mariadb.resume()
    with transaction(engine) as connection:
        assert connection.scalar(sa.select(1)) == 1
    engine.dispose()


def test_a_server_that_is_down_is_no_wrong_setting() -> None:
    found = raised(sa.make_url(f"mariadb+pymysql://u:{PASSWORD}@127.0.0.1:1/none"))
    assert isinstance(found, DatabaseUnavailableError)
    assert "Connection refused" in str(found)


def test_what_waiting_does_not_cure_says_what_to_do(
    mariadb_user: sa.URL, mariadb_empty_url: str
) -> None:
    admin = sa.make_url(mariadb_empty_url)
    found = raised(mariadb_user.set(password="wrong-" + "word"))
    assert isinstance(found, ConfigurationError)
    assert "correct the user, the password" in str(found)
    found = raised(mariadb_user)
    assert isinstance(found, ConfigurationError)
    assert "GRANT the user what is missing" in str(found)
    grant = f"GRANT SELECT ON {mariadb_user.database}.outbox_inbox TO {mariadb_user.username}"
    administer(admin, grant)
    found = raised(mariadb_user)
    assert isinstance(found, ConfigurationError)
    assert "SELECT command denied" in str(found)
    found = raised(admin.set(database="no_such_database"))
    assert isinstance(found, ConfigurationError)
    assert "Unknown database" in str(found)
    found = raised(admin)
    assert isinstance(found, ConfigurationError)
    assert "run `outbox migrate`" in str(found)


def test_a_lock_that_another_holds_is_waited_for_ten_seconds_at_most(
    mariadb_relay_engine: sa.Engine,
) -> None:
    engine = mariadb_relay_engine
    with transaction(engine) as connection:
        lease.acquire(connection, "kafka", "me", 60)
    with engine.connect() as other, engine.connect() as connection:
        other.exec_driver_sql("SET SESSION idle_transaction_timeout = 0")
        other.execute(sa.select(outbox_checkpoint).with_for_update())
        limit = connection.scalar(sa.text("SELECT @@innodb_lock_wait_timeout"))
        assert limit == LOCK_SECONDS
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
        with (
            pytest.raises(DatabaseUnavailableError, match="another holds a lock"),
            errors(engine),
        ):
            lease.renew(connection, "kafka", 1, 0, 60)
        other.detach()
        connection.detach()


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (1040, DatabaseUnavailableError, "does not answer: the reason"),
        (1205, DatabaseUnavailableError, "another holds a lock that is needed: the reason"),
        (1213, DatabaseUnavailableError, "another holds a lock that is needed: the reason"),
        (1290, DatabaseUnavailableError, "does not answer: the reason"),
        (1927, DatabaseUnavailableError, "does not answer: the reason"),
        (2003, DatabaseUnavailableError, "does not answer: the reason"),
        (2006, DatabaseUnavailableError, "does not answer: the reason"),
        (2013, DatabaseUnavailableError, "does not answer: the reason"),
        (1044, ConfigurationError, "GRANT the user what is missing"),
        (1045, ConfigurationError, "correct the user, the password"),
        (1046, ConfigurationError, "the database in database_url"),
        (1049, ConfigurationError, "the database in database_url"),
        (1142, ConfigurationError, "GRANT the user what is missing"),
        (1054, ConfigurationError, "run `outbox migrate`"),
        (1146, ConfigurationError, "run `outbox migrate`"),
    ],
)
def test_errors_are_told_apart_by_their_numbers(
    number: int, kind: type[Exception], words: str
) -> None:
    engine = make_engine(sa.make_url(f"mariadb+pymysql://u:{PASSWORD}@h/shop"))
    origin = pymysql.OperationalError(number, "the reason")
    with pytest.raises(kind) as caught, errors(engine):
        raise sa.exc.OperationalError("SELECT 1", {}, origin)
    assert words in str(caught.value)
    assert f"({number}" not in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_deadlock_is_a_wait_for_others(mariadb_relay_engine: sa.Engine) -> None:
    engine = mariadb_relay_engine
    with transaction(engine) as connection:
        for route in "abcd":
            lease.acquire(connection, route, "me", 60)
    with ThreadPoolExecutor(1) as pool, engine.connect() as other, engine.connect() as loser:
        for connection in (other, loser):
            connection.exec_driver_sql("SET SESSION idle_transaction_timeout = 0")
        for route in "bcd":  # the server gives up the side that has written less
            lease.renew(other, route, 1, 0, 60)
        lease.renew(loser, "a", 1, 0, 60)
        waiting = pool.submit(lease.renew, other, "a", 1, 0, 60.0)
        await_waiters(engine)
        with (
            pytest.raises(DatabaseUnavailableError, match="another holds a lock"),
            errors(engine),
        ):
            lease.renew(loser, "b", 1, 0, 60)
        waiting.result(10)
        other.detach()
        loser.detach()
