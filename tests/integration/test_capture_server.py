"""Which server a position may be used on, and what is said about a server that will not do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox.errors import (
    CaptureRestartedError,
    ConfigurationError,
    DatabaseUnavailableError,
    ForeignPositionError,
)
from outbox.migration import upgrade
from relay.capture import Capture, open_capture
from tests.capturing import INSERT, Reader, connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tools.servers import PostgresServer


@pytest.fixture
def capture(postgres_engine: sa.Engine) -> Iterator[Capture]:
    opened = open_capture(postgres_engine)
    yield opened
    opened.close()


def terminate_others(url: str) -> None:
    with connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def run(url: str, statement: str) -> None:
    with connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def test_a_lost_connection_is_told_once_and_the_next_call_opens_another(
    capture: Capture, postgres_url: str
) -> None:
    position = capture.beginning()
    terminate_others(postgres_url)
    with pytest.raises(DatabaseUnavailableError, match="does not answer"):
        capture.next_page(position, 10)
    assert capture.next_page(position, 10).is_last


def test_a_closed_capture_closes_its_connection_and_can_be_closed_twice(
    postgres_engine: sa.Engine, postgres_url: str
) -> None:
    capture = open_capture(postgres_engine)
    position = capture.beginning()
    capture.close()
    capture.close()
    assert capture.next_page(position, 10).is_last
    capture.close()


def test_the_connection_is_outside_transactions_and_prepares_nothing(
    capture: Capture, postgres_url: str
) -> None:
    position = capture.beginning()
    for _ in range(10):
        capture.next_page(position, 10)
    with connect(postgres_url, autocommit=True) as connection:
        states = connection.execute(
            "SELECT state FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    assert states == [("idle",)]


def test_another_incarnation_ends_what_was_read_of_the_one_before(
    capture: Capture, postgres_url: str
) -> None:
    reader = Reader(capture, 10)
    position = capture.position(reader.stored)
    run(postgres_url, "DELETE FROM outbox_incarnation")
    for _ in range(2):
        with pytest.raises(CaptureRestartedError, match="take the stored one again"):
            capture.next_page(position, 10)
    assert reader.drain() == []
    with pytest.raises(CaptureRestartedError):
        capture.next_page(position, 10)


def test_two_routes_share_one_incarnation(capture: Capture, postgres_engine: sa.Engine) -> None:
    other = open_capture(postgres_engine)
    position = other.beginning()
    capture.beginning()
    assert other.next_page(position, 10).is_last
    other.close()


def test_a_crash_of_the_server_is_noticed_and_the_stored_position_goes_on(
    own_postgres: PostgresServer,
) -> None:
    upgrade(own_postgres.url())
    capture = open_capture(sa.create_engine(own_postgres.url()))
    reader = Reader(capture, 10)
    run(own_postgres.url(), INSERT.replace("%s", "'k'"))
    position = capture.position(reader.stored)
    own_postgres.kill()
    with pytest.raises(DatabaseUnavailableError):
        capture.next_page(position, 10)
    with pytest.raises(DatabaseUnavailableError):
        capture.next_page(position, 10)
    own_postgres.start()
    with pytest.raises(CaptureRestartedError):
        capture.next_page(position, 10)
    assert reader.drain() == [1]
    capture.close()


def test_an_orderly_restart_of_the_server_keeps_its_incarnation(
    own_postgres: PostgresServer,
) -> None:
    upgrade(own_postgres.url())
    capture = open_capture(sa.create_engine(own_postgres.url()))
    position = capture.beginning()
    own_postgres.stop()
    own_postgres.start()
    with pytest.raises(DatabaseUnavailableError):
        capture.next_page(position, 10)
    assert capture.next_page(position, 10).is_last
    capture.close()


def test_a_standby_is_refused(own_postgres: PostgresServer) -> None:
    upgrade(own_postgres.url())
    own_postgres.stop()
    (own_postgres.data / "standby.signal").touch()
    own_postgres.start()
    capture = open_capture(sa.create_engine(own_postgres.url()))
    with pytest.raises(ConfigurationError, match="point to the primary"):
        capture.beginning()


def test_a_position_of_another_server_is_refused_with_the_way_out(capture: Capture) -> None:
    stored = capture.beginning().to_json()
    stored["server"]["system"] = "1"
    with pytest.raises(ForeignPositionError, match="outbox relay --rebase"):
        capture.position(stored)


def test_a_position_of_an_older_incarnation_of_this_server_is_trusted(capture: Capture) -> None:
    stored = capture.beginning().to_json()
    stored["server"]["incarnation"] = "gone"
    assert capture.next_page(capture.position(stored), 10).is_last


def test_a_row_with_an_id_that_this_server_has_not_given_is_refused(
    capture: Capture, postgres_url: str
) -> None:
    position = capture.beginning()
    run(
        postgres_url,
        "ALTER TABLE outbox_event DROP CONSTRAINT outbox_event_own;"
        " INSERT INTO outbox_event (transaction_id, type, data) VALUES ('999999999999', 'x', '')",
    )
    with pytest.raises(ForeignPositionError, match=r"event 1 was.*outbox relay --rebase"):
        capture.next_page(position, 10)


@pytest.mark.parametrize("option", ["CACHE 10", "INCREMENT 2", "CYCLE"])
def test_numbers_that_are_not_drawn_one_by_one_are_refused(
    postgres_engine: sa.Engine, postgres_url: str, option: str
) -> None:
    run(postgres_url, f"ALTER SEQUENCE outbox_event_seq_seq {option}")
    capture = open_capture(postgres_engine)
    with pytest.raises(ConfigurationError, match="ALTER SEQUENCE") as told:
        capture.beginning()
    run(postgres_url, str(told.value).split("`")[1])
    assert capture.next_page(capture.beginning(), 10).is_last
    capture.close()


def test_missing_tables_are_told_with_the_command_that_makes_them(postgres_empty_url: str) -> None:
    engine = sa.create_engine(postgres_empty_url)
    capture = open_capture(engine)
    with pytest.raises(ConfigurationError, match="outbox migrate"):
        capture.beginning()
    upgrade(postgres_empty_url)
    assert capture.next_page(capture.beginning(), 10).is_last
    capture.close()
    engine.dispose()


def test_a_role_needs_few_rights_and_is_told_which_are_missing(postgres_url: str) -> None:
    role = sa.make_url(postgres_url).database
    run(postgres_url, f'CREATE ROLE "{role}" LOGIN')
    capture = open_capture(sa.create_engine(sa.make_url(postgres_url).set(username=role)))
    try:
        with pytest.raises(ConfigurationError, match="SELECT on outbox_event"):
            capture.beginning()
        run(postgres_url, f'GRANT SELECT ON outbox_event TO "{role}"')
        run(postgres_url, f'GRANT SELECT, INSERT ON outbox_incarnation TO "{role}"')
        assert capture.next_page(capture.beginning(), 10).is_last
    finally:
        capture.close()
        run(postgres_url, f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_an_unreachable_server_is_told_without_the_password() -> None:
    url = "postgresql+psycopg://app:hunter2@127.0.0.1:1/shop"
    capture = open_capture(sa.create_engine(url))
    with pytest.raises(DatabaseUnavailableError) as told:
        capture.beginning()
    assert "hunter2" not in str(told.value)
