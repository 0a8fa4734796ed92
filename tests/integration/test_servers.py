"""The servers that tests start behave as the tests need."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pymysql
import pytest
from botocore.exceptions import ClientError
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.fix_s3 import new_bucket
from tools.servers import (
    KafkaServer,
    MariaDbServer,
    PostgresServer,
    S3Server,
    ServerError,
    mariadb,
)
from tools.servers.process import ServerProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Callable

SLEEP = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]
ROOT = Path(__file__).parents[2]


def endings(
    server: PostgresServer | KafkaServer | MariaDbServer | S3Server,
) -> dict[str, Callable[[], None]]:
    return {"stop": server.stop, "kill": server.kill}


def insert(server: PostgresServer) -> None:
    with psycopg.connect(server.dsn()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")


def count(server: PostgresServer) -> int:
    with psycopg.connect(server.dsn()) as connection:
        return len(connection.execute("SELECT id FROM kept").fetchall())


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_postgres_keeps_data_and_port_over_a_restart(
    own_postgres: PostgresServer, ending: str
) -> None:
    insert(own_postgres)
    address = own_postgres.address
    endings(own_postgres)[ending]()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(own_postgres.dsn())
    own_postgres.start()
    assert (own_postgres.address, count(own_postgres)) == (address, 1)


def test_a_killed_postgres_breaks_open_connections_at_once(own_postgres: PostgresServer) -> None:
    connection = psycopg.connect(own_postgres.dsn())
    own_postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()


def test_a_frozen_postgres_answers_after_its_thaw(own_postgres: PostgresServer) -> None:
    own_postgres.pause()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        psycopg.connect(own_postgres.dsn(), connect_timeout=2)
    own_postgres.resume()
    psycopg.connect(own_postgres.dsn()).close()


def test_postgres_can_decode_and_prepare(own_postgres: PostgresServer) -> None:
    with psycopg.connect(own_postgres.dsn()) as connection:
        level = connection.execute("SHOW wal_level").fetchone()
        prepared = connection.execute("SHOW max_prepared_transactions").fetchone()
    assert (level, prepared) == (("logical",), ("20",))


def test_a_wrong_setting_is_reported_with_the_log(own_postgres: PostgresServer) -> None:
    own_postgres.stop()
    (own_postgres.data / "postgresql.auto.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(ServerError, match="no_such_setting"):
        own_postgres.start()


def mariadb_connection(server: MariaDbServer) -> pymysql.Connection[Any]:
    return pymysql.connect(host="127.0.0.1", port=server.port, user="root", read_timeout=2)


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_mariadb_keeps_data_and_port_over_a_restart(
    own_mariadb: MariaDbServer, ending: str
) -> None:
    with mariadb_connection(own_mariadb) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE shop")
        cursor.execute("CREATE TABLE shop.kept ENGINE=InnoDB AS SELECT 1 AS id")
        connection.commit()
    address = own_mariadb.address
    endings(own_mariadb)[ending]()
    with pytest.raises(pymysql.OperationalError):
        mariadb_connection(own_mariadb)
    own_mariadb.start()
    with mariadb_connection(own_mariadb) as connection, connection.cursor() as cursor:
        assert (own_mariadb.address, cursor.execute("SELECT id FROM shop.kept")) == (address, 1)


def test_a_frozen_mariadb_answers_after_its_thaw(own_mariadb: MariaDbServer) -> None:
    own_mariadb.pause()
    with pytest.raises(pymysql.OperationalError):
        mariadb_connection(own_mariadb)
    own_mariadb.resume()
    mariadb_connection(own_mariadb).close()


def test_a_wrong_setting_of_mariadb_is_reported_with_the_log() -> None:
    with (
        pytest.raises(ServerError, match="no-such-setting"),
        mariadb(settings={"no-such-setting": "1"}),
    ):
        pass


def produce(server: KafkaServer, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": server.bootstrap_servers})
    producer.produce("kept", value, partition=0)
    assert producer.flush(30) == 0


def first_value(server: KafkaServer) -> bytes | None:
    consumer = Consumer({"bootstrap.servers": server.bootstrap_servers, "group.id": "test"})
    try:
        consumer.assign([TopicPartition("kept", 0, 0)])
        message = consumer.poll(30)
        assert message is not None
        return message.value()
    finally:
        consumer.close()


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_kafka_keeps_data_and_port_over_a_restart(own_kafka: KafkaServer, ending: str) -> None:
    produce(own_kafka, b"kept")
    address = own_kafka.bootstrap_servers
    endings(own_kafka)[ending]()
    own_kafka.start()
    assert (own_kafka.bootstrap_servers, first_value(own_kafka)) == (address, b"kept")


def test_a_frozen_kafka_answers_after_its_thaw(own_kafka: KafkaServer) -> None:
    admin = AdminClient({"bootstrap.servers": own_kafka.bootstrap_servers, "log_level": 0})
    own_kafka.pause()
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=1)
    own_kafka.resume()
    assert admin.list_topics(timeout=30).brokers


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_s3_keeps_data_and_port_over_a_restart(own_s3: S3Server, ending: str) -> None:
    bucket = new_bucket(own_s3.url())
    bucket.client.put_object(Bucket=bucket.name, Key="kept", Body=b"1")
    endings(own_s3)[ending]()
    own_s3.start()
    assert bucket.read("kept") == b"1"


def test_s3_lets_one_writer_create_an_object(own_s3: S3Server) -> None:
    """What the transport is safe by."""
    bucket = new_bucket(own_s3.url())
    client = bucket.client

    def create(number: int, key: str) -> bool:
        try:
            client.put_object(Bucket=bucket.name, Key=key, Body=b"%d" % number, IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed":
                raise
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        for key in map(str, range(20)):
            assert sum(pool.map(create, range(8), [key] * 8)) == 1


def test_a_server_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such disk')"]
    process = ServerProcess(command, folder=tmp_path, log=tmp_path / "log", owner=None)
    with pytest.raises(ServerError, match="no such disk"):
        process.wait_until(lambda: False, timeout_seconds=30)


def test_a_server_dies_with_the_program_that_started_it(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    program = f"""
import pathlib, os, signal
from tools.servers.process import ServerProcess
folder = pathlib.Path({str(folder)!r})
server = ServerProcess({SLEEP!r}, folder=folder, log=folder / "log", owner=None)
print(server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, cwd=ROOT, capture_output=True, timeout=30
    )
    assert ended.returncode == -signal.SIGKILL
    assert ends_soon(int(ended.stdout))


def ends_soon(pid: int) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with os.fdopen(descriptor):
        return bool(select.select([descriptor], [], [], 30)[0])


def test_a_free_port_is_free() -> None:
    assert free_port() in range(15_000, 30_000)


def test_the_command_gets_the_addresses_and_passes_its_exit_code_on() -> None:
    given = {
        "OUTBOX_TEST_POSTGRES": "postgresql+psycopg://given/shop",
        "OUTBOX_TEST_MARIADB": "mariadb+pymysql://given/shop",
        "OUTBOX_TEST_KAFKA": "given:9092",
        "OUTBOX_TEST_S3": "http://key:secret@given:80",
    }
    script = "import os, sys; sys.exit(os.environ['OUTBOX_TEST_KAFKA'] == 'given:9092' and 7)"
    servers = ["--postgres", "--mariadb", "--kafka", "--s3"]
    command = [sys.executable, "-m", "tools.servers", *servers, "--"]
    ended = subprocess.run(
        [*command, sys.executable, "-c", script], check=False, cwd=ROOT, env=os.environ | given
    )
    assert ended.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_is_stopped_with_the_servers(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tools.servers", "--", *SLEEP],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"up\n"
        if number is signal.SIGINT:
            os.killpg(program.pid, number)  # As a terminal sends Ctrl-C: to all of them.
        else:
            program.send_signal(number)
        assert program.wait(30) == 128 + number
