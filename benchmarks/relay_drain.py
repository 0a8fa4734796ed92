"""How fast a backlog drains to Kafka: the relay beside the hand-written script, in one run.

    python -m tools.servers --postgres --kafka -- python -m benchmarks.relay_drain

Each contender runs in a process of its own, in turn, over the same rows into a topic of its own;
what arrived is counted at the broker. The clock of each starts before it connects.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psycopg
import sqlalchemy as sa
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from rich.console import Console
from rich.table import Table

from benchmarks import handwritten
from outbox import migration
from outbox.settings import RouteSettings, Settings
from relay.daemon import Relay, Until, spare_collector

FILL = """
INSERT INTO outbox_event (source, type, partition_key, data, headers)
SELECT '/bench', 'bench.order.placed', 'k' || i %% 1000,
       convert_to(rpad('{"order_id":"' || i || '","pad":"', %(size)s - 2, 'x') || '"}', 'UTF8'),
       '{"correlationid":"c-1","actor":"user:42"}'
  FROM generate_series(1, %(count)s) AS i
"""


def dsn_of(url: str) -> str:
    """Return what psycopg itself takes."""
    return sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def by_relay(url: str, bootstrap_servers: str, topic: str, page: int) -> tuple[int, float]:
    """Drain by the relay as an operator runs it."""
    settings = Settings(
        database_url=url,
        source="/bench",
        routes={
            topic: RouteSettings.model_validate(
                {
                    "transport": "kafka",
                    "bootstrap_servers": bootstrap_servers,
                    "topic": topic,
                    "page_size": page,
                }
            )
        },
    )
    started = time.perf_counter()
    spare_collector()
    summary = Relay(settings).run(until=Until.DRAINED)
    return summary.routes[topic].published, time.perf_counter() - started


def by_hand(url: str, bootstrap_servers: str, topic: str, page: int) -> tuple[int, float]:
    """Drain by the hand-written script."""
    return handwritten.drain(dsn_of(url), bootstrap_servers, topic, page)


def measure(contender: Any, *arguments: Any) -> tuple[int, float]:
    """Run one contender in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        result: tuple[int, float] = pool.submit(contender, *arguments).result()
        return result


def records(bootstrap_servers: str, topic: str, partitions: int) -> int:
    """Count what the broker holds in a topic."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "bench-count"})
    marks = [consumer.get_watermark_offsets(TopicPartition(topic, p)) for p in range(partitions)]
    consumer.close()
    return sum(high - low for low, high in marks)


def main() -> None:
    """Fill a database, drain it in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--bytes", type=int, default=200, help="payload of one event")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--page", type=int, default=5_000)
    parser.add_argument("--partitions", type=int, default=3)
    options = parser.parse_args()
    server, bootstrap_servers = os.environ["OUTBOX_TEST_POSTGRES"], os.environ["OUTBOX_TEST_KAFKA"]
    name = f"bench_{uuid.uuid4().hex[:8]}"
    url = sa.make_url(server).set(database=name).render_as_string(hide_password=False)
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    topics: list[str] = []
    console = Console()
    with psycopg.connect(dsn_of(server), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        migration.upgrade(url)
        with psycopg.connect(dsn_of(url), autocommit=True) as connection:
            connection.execute(FILL, {"count": options.rows, "size": options.bytes})
            connection.execute("VACUUM ANALYZE outbox_event")
        rates: dict[str, list[float]] = {"hand-written": [], "relay": []}
        for number in range(options.rounds):
            for label, contender in (("hand-written", by_hand), ("relay", by_relay)):
                topic = f"{name}.{label}.{number}"
                admin.create_topics([NewTopic(topic, options.partitions, 1)])[topic].result()
                topics.append(topic)
                count, seconds = measure(contender, url, bootstrap_servers, topic, options.page)
                arrived = records(bootstrap_servers, topic, options.partitions)
                if not count == arrived == options.rows:
                    msg = f"{label}: {count} said, {arrived} arrived, {options.rows} expected"
                    raise RuntimeError(msg)
                rates[label].append(count / seconds)
                console.print(f"{label}: {count / seconds:,.0f} rows/s")
    finally:
        for future in admin.delete_topics(topics).values() if topics else ():
            future.result()
        with psycopg.connect(dsn_of(server), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    table = Table(title=f"{options.rows:,} rows of {options.bytes} bytes to Kafka, one process")
    for column in ("", "rows/s (median)", "min", "max"):
        table.add_column(column, justify="right" if column else "left")
    for label, values in rates.items():
        table.add_row(label, *(f"{f(values):,.0f}" for f in (statistics.median, min, max)))
    console.print(table)
    pairs = zip(rates["relay"], rates["hand-written"], strict=True)
    ratio = statistics.median(mine / ceiling for mine, ceiling in pairs)
    console.print(f"ratio relay / hand-written: {ratio:.2f} (median of pairs)")
    console.print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
