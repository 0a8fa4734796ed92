"""The example of examples/shop on real servers: what each destination got, and what is proved."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, TopicPartition

from tools.buckets import plain_client
from tools.example import ROOT, prepared

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ORDERS = 40
EARLY = ORDERS // 4
"""Of these, so many were placed before the event had its second version."""
PLACES = {
    "Kafka": "shop_invoice",
    "ActiveMQ": "shop_parcel",
    "S3": "shop_sale",
    "memory": "shop_note",
}
FOLDER = ROOT / "examples" / "shop"
NAMES = ("Lovelace", "Babbage", "Somerville", "De Morgan", "Ada King")


class Shop:
    """The example after its run, with everything that it left."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.told = self.python("run.py", str(ORDERS))
        self.engine = sa.create_engine(environment["OUTBOX_DATABASE_URL"], poolclass=sa.NullPool)

    def python(self, *arguments: str) -> str:
        return self.run(sys.executable, *arguments).stdout

    def outbox(self, *arguments: str, code: int = 0) -> str:
        return self.run(sys.executable, "-m", "outbox", *arguments, code=code).stdout

    def run(self, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {"OUTBOX_CONFIG": str(FOLDER / "outbox.toml"), **self.environment}
        done = subprocess.run(
            command,
            cwd=FOLDER,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.exec_driver_sql(query))

    def everything(self) -> Iterator[tuple[str, str]]:
        """Yield every row, record and file, with where it is."""
        for table in sa.inspect(self.engine).get_table_names():
            for (row,) in self.rows(f'SELECT CAST(t AS text) FROM "{table}" AS t'):
                # What a column of bytes holds is printed as hexadecimal digits.
                yield table, row
                for word in row.replace("(", " ").replace(")", " ").replace(",", " ").split():
                    digits = word.strip('"').lstrip("\\").removeprefix("x")
                    if len(digits) % 2 == 0 and set(digits) <= set("0123456789abcdef"):
                        yield table, bytes.fromhex(digits).decode(errors="replace")
        for record in self.records():
            yield "Kafka", repr((record.key(), record.value(), record.headers()))
        client = plain_client(self.environment["OUTBOX_TEST_S3"])
        bucket = self.environment["OUTBOX_ROUTES__S3__BUCKET"]
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for item in page.get("Contents", ()):
                body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
                yield "S3", body.decode(errors="replace")

    def records(self) -> Iterator[Any]:
        topic = self.environment["OUTBOX_ROUTES__KAFKA__TOPIC"]
        options = {
            "bootstrap.servers": self.environment["OUTBOX_ROUTES__KAFKA__BOOTSTRAP_SERVERS"],
            "group.id": "nobody",
            "enable.auto.commit": False,
        }
        consumer = Consumer(options)
        try:
            for partition in consumer.list_topics(topic).topics[topic].partitions:
                place = TopicPartition(topic, partition, 0)
                _, end = consumer.get_watermark_offsets(place)
                consumer.assign([place])
                while consumer.position([place])[0].offset < end:
                    for record in consumer.consume(500, 1.0):
                        assert record.error() is None
                        yield record
        finally:
            consumer.close()


@pytest.fixture(scope="module")
def shop(
    postgres_server: sa.URL, kafka_server: str, activemq_server: str, s3_server: str
) -> Iterator[Shop]:
    servers = {
        "OUTBOX_TEST_POSTGRES": postgres_server.render_as_string(hide_password=False),
        "OUTBOX_TEST_KAFKA": kafka_server,
        "OUTBOX_TEST_ACTIVEMQ": activemq_server,
        "OUTBOX_TEST_S3": s3_server,
        "OUTBOX_PERSONAL__MASTER_KEY": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=",
    }
    own = {name: value for name, value in os.environ.items() if "OUTBOX" not in name}
    with ExitStack() as stack:
        yield Shop(stack.enter_context(prepared(own | servers)))


def test_each_destination_has_each_order_once(shop: Shop) -> None:
    told = [line.split() for line in shop.told.splitlines() if line.endswith(" orders")]
    assert told == [[place, str(ORDERS), "of", str(ORDERS), "orders"] for place in PLACES]
    orders = Counter(id_ for (id_,) in shop.rows("SELECT id FROM shop_order"))
    assert len(orders) == ORDERS
    for place, table in PLACES.items():
        found = Counter(id_ for (id_,) in shop.rows(f"SELECT order_id FROM {table}"))
        assert found == orders, place


def test_events_of_before_the_upgrade_are_handled_as_those_after_it(shop: Shop) -> None:
    query = "SELECT version, count(*) FROM outbox_event WHERE type = 'shop.order.placed' GROUP BY 1"
    assert dict(map(tuple, shop.rows(query))) == {1: EARLY, 2: ORDERS - EARLY}
    assert shop.rows("SELECT DISTINCT currency FROM shop_invoice") == [("EUR",)]
    assert shop.rows("SELECT count(*) FROM shop_parcel WHERE NOT has_label") == [(EARLY,)]


def test_the_timeline_of_an_order_is_a_story(shop: Shop) -> None:
    ((order,),) = shop.rows("SELECT order_id FROM shop_invoice ORDER BY number DESC LIMIT 1")
    story = shop.outbox("audit", "timeline", order)
    assert story in shop.told
    for part in ("shop.order.placed", "customer:c-", "billing", "shop.order.invoiced"):
        assert part in story
    assert story.index("shop.order.placed") < story.index("shop.order.invoiced")
    assert "service:billing" in story
    assert "invoiced" in story


def test_a_name_is_in_clear_nowhere_and_a_forgotten_one_cannot_be_read(shop: Shop) -> None:
    places = {place for place, text in shop.everything() if any(name in text for name in NAMES)}
    assert places == {"shop_customer"}
    shop.python("shop.py", "forget", "c-1")
    assert shop.rows("SELECT name FROM shop_customer WHERE id = 'c-1'") == [(None,)]
    query = "SELECT subject, wrapped_key IS NULL FROM outbox_personal_key WHERE subject = 'c-1'"
    assert shop.rows(query) == [("c-1", True)]
    assert not any("Lovelace" in text for _, text in shop.everything())
    assert "intact: " in shop.outbox("audit", "verify")


def test_an_edit_of_the_trail_is_found_and_named(shop: Shop) -> None:
    edit = "UPDATE outbox_audit SET actor = '{}' WHERE position = 17"
    ((actor,),) = shop.rows("SELECT actor FROM outbox_audit WHERE position = 17")
    try:
        with shop.engine.begin() as connection:
            connection.exec_driver_sql(edit.format("customer:nobody"))
        done = shop.run(sys.executable, "-m", "outbox", "audit", "verify", code=1)
        assert "broken at position 17" in done.stderr
    finally:
        with shop.engine.begin() as connection:
            connection.exec_driver_sql(edit.format(actor))
    shop.outbox("audit", "verify")


def test_a_change_of_an_event_that_breaks_others_is_stopped(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "shop")
    command = [sys.executable, "-m", "outbox", "schema", "check", "--against", "schemas"]
    command += ["--app", "shop", "--app", "shop_v1"]
    assert subprocess.run(command, cwd=folder, check=False, capture_output=True).returncode == 0
    events = folder / "events.py"
    text = events.read_text().replace("    currency: str\n", "    currency: str\n    shop: str\n")
    events.write_text(text.replace('"currency": "EUR",\n', '"currency": "EUR", "shop": "s",\n'))
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "/shop: newly required" in done.stdout
    assert "upcast(OrderPlaced, from_version=2)" in done.stdout
