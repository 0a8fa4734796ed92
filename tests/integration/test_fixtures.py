"""The fixtures keep what the other tests rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient, ConfigResource

import outbox.table
from tests.absence import skipped_unless_ci
from tests.pool import assert_all_given_back
from tools.servers import ServerAbsentError

if TYPE_CHECKING:
    from tests.fix_kafka import TopicFactory
    from tests.fix_s3 import Bucket

TABLES = set(outbox.table.metadata.tables)


def test_the_postgres_database_has_the_tables(postgres_engine: sa.Engine) -> None:
    assert set(sa.inspect(postgres_engine).get_table_names()) >= TABLES


def test_the_sqlite_database_has_the_tables(sqlite_engine: sa.Engine) -> None:
    common = {name for name in TABLES if name != "outbox_incarnation"}
    assert set(sa.inspect(sqlite_engine).get_table_names()) >= common


def test_the_mariadb_database_has_the_tables(mariadb_engine: sa.Engine) -> None:
    assert set(sa.inspect(mariadb_engine).get_table_names()) >= TABLES


@pytest.mark.parametrize("turn", ["first", "second"])
def test_what_a_test_writes_is_gone_for_the_next(postgres_engine: sa.Engine, turn: str) -> None:
    with postgres_engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE left_behind (id integer)"))


@pytest.mark.parametrize("database", ["postgres", "mariadb"])
def test_an_empty_database_has_no_tables(request: pytest.FixtureRequest, database: str) -> None:
    engine = sa.create_engine(
        request.getfixturevalue(f"{database}_empty_url"), poolclass=sa.NullPool
    )
    assert sa.inspect(engine).get_table_names() == []


def test_a_connection_that_stays_out_is_noticed(sqlite_url: str) -> None:
    engine = sa.create_engine(sqlite_url, poolclass=sa.QueuePool)
    with engine.connect(), pytest.raises(AssertionError, match="1 connections were not given back"):
        assert_all_given_back(engine)


def test_a_topic_has_the_asked_partitions_and_settings(
    new_topic: TopicFactory, bootstrap_servers: str
) -> None:
    name = new_topic(partitions=2, cleanup_policy="compact")
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    assert len(admin.list_topics(name, timeout=10).topics[name].partitions) == 2
    topic = ConfigResource(ConfigResource.Type.TOPIC, name)
    assert admin.describe_configs([topic])[topic].result()["cleanup.policy"].value == "compact"


@pytest.mark.usefixtures("kafka_topic")
def test_server_fixtures_set_their_marker(
    request: pytest.FixtureRequest, postgres_url: str, mariadb_url: str, bucket: Bucket
) -> None:
    marks = {marker.name for marker in request.node.iter_markers()}
    assert marks >= {"postgres", "mariadb", "kafka", "s3"}


def test_an_absent_server_skips_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception), skipped_unless_ci():
        raise ServerAbsentError("the server is absent")


def test_an_absent_server_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(ServerAbsentError), skipped_unless_ci():
        raise ServerAbsentError("the server is absent")
