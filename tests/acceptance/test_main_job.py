"""The whole path on real servers, with everything killed while it works."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter as Tally
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, TopicPartition

from outbox.table import outbox_checkpoint
from tests.acceptance import counting
from tests.waiting import eventually
from tools.servers import kafka

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tools.servers import KafkaServer

PROGRAM = Path(sys.executable).with_name("outbox")
TOPIC = "counting.counter"
PARTITION_COUNT = 4
WRITER_COUNT = 8

SETTINGS = """
source = "/counting"

[routes.kafka]
transport = "kafka"
bootstrap_servers = "{bootstrap_servers}"
topic = "{{type_prefix}}"
lease_seconds = {lease_seconds}
consumer = {{ "session.timeout.ms" = "6000" }}
page_size = 500

[consumers.counting]
batch_size = 200
"""


@dataclass(frozen=True)
class Load:
    """How much is written, and how much is killed meanwhile."""

    event_count: int
    relay_kills: int
    worker_kills: int
    writer_rate: float
    """Transactions of one writer in a second; it goes on as long as things are killed."""
    lease_seconds: float
    timeout_seconds: float


@dataclass(frozen=True)
class Counts:
    """What came of it, counted from the database and the broker."""

    committed: int
    effects: int
    lost: int
    doubled: int
    phantom: int
    reordered_effects: int
    records: int
    record_duplicates: int
    reordered_records: int


class Process:
    """A real process that is started again whenever it was killed."""

    def __init__(self, log: Path, environment: Mapping[str, str], *command: str) -> None:
        self.command, self.environment, self.log = command, environment, log
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env={**os.environ, **self.environment}
            )

    def kill(self) -> None:
        assert self.process.poll() is None, f"it ended by itself: {self.log.read_text()[-4000:]}"
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def broker() -> Iterator[KafkaServer]:
    """A Kafka of this test's own, because it is restarted."""
    with kafka(properties={"num.partitions": str(PARTITION_COUNT)}) as server:
        yield server


@pytest.mark.timeout(600)
def test_each_committed_event_has_one_effect_in_order(
    postgres_engine: sa.Engine,
    broker: KafkaServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts = run(Load(8_000, 3, 2, 20, 3, 300), postgres_engine, broker, tmp_path)
    show(counts, capsys)
    expect_perfect(counts, at_least=8_000)


@pytest.mark.timeout(600)
def test_the_same_holds_on_mariadb(
    mariadb_engine: sa.Engine,
    broker: KafkaServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts = run(Load(1_000, 1, 1, 20, 3, 300), mariadb_engine, broker, tmp_path)
    show(counts, capsys)
    expect_perfect(counts, at_least=1_000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_of_a_hundred_thousand_committed_events_has_one_effect_in_order(
    postgres_engine: sa.Engine,
    broker: KafkaServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts = run(Load(100_000, 10, 6, 100, 5, 900), postgres_engine, broker, tmp_path)
    show(counts, capsys)
    expect_perfect(counts, at_least=100_000)


def show(counts: Counts, capsys: pytest.CaptureFixture[str]) -> None:
    """Print the counts whatever pytest captures: they are what this test is about."""
    with capsys.disabled():
        sys.stdout.write(f"\n{counts}\n")


def expect_perfect(counts: Counts, *, at_least: int) -> None:
    assert counts.committed >= at_least
    assert counts.effects == counts.committed
    assert (counts.lost, counts.doubled, counts.phantom) == (0, 0, 0)
    assert (counts.reordered_effects, counts.reordered_records) == (0, 0)
    assert (counts.records, counts.record_duplicates) == (counts.committed, 0)


def run(load: Load, engine: sa.Engine, broker: KafkaServer, folder: Path) -> Counts:
    """Write, relay and consume while the relay, the workers and the broker are killed."""
    settings = SETTINGS.format(
        bootstrap_servers=broker.bootstrap_servers, lease_seconds=load.lease_seconds
    )
    work(load, engine, broker, folder, settings)
    return count(engine, list(topic_content(broker)))


def work(load: Load, engine: sa.Engine, broker: Broker, folder: Path, settings: str) -> None:
    """Do it all on one broker, until every event that was committed has its effect."""
    prepare(engine)
    with Fleet(load, engine, broker, folder, settings) as fleet:
        for blow in fleet.blows():
            blow()
        fleet.let_writers_end()
        committed = counter_total(engine)
        eventually(
            lambda: effect_count(engine) >= committed, load.timeout_seconds, lambda: tails(folder)
        )
        # Whatever is still on its way, duplicates above all, has to have no effect.
        fleet.finish()


def prepare(engine: sa.Engine) -> None:
    counting.Base.metadata.create_all(engine)
    with engine.begin() as connection:
        rows = [{"id": number, "value": 0} for number in range(1, counting.COUNTER_COUNT + 1)]
        connection.execute(sa.insert(counting.Counter), rows)


class Broker(Protocol):
    """A server that can be killed, and keeps what it had stored."""

    def kill(self) -> None: ...

    def start(self) -> None: ...


class Fleet:
    """Eight writers, a relay, two workers and a broker, and what befalls them."""

    def __init__(
        self, load: Load, engine: sa.Engine, broker: Broker, folder: Path, settings: str
    ) -> None:
        self.load, self.engine, self.broker, self.folder = load, engine, broker, folder
        self.dice = random.Random(4)
        self.closing = ExitStack()
        url = engine.url.render_as_string(hide_password=False)
        self.environment = {"OUTBOX_DATABASE_URL": url, "COUNTING_DATABASE_URL": url}
        path = folder / "outbox.toml"
        path.write_text(settings)
        self.program = (str(PROGRAM), "--config", str(path))
        self.consume = (*self.program, "consume", f"{counting.__name__}:consumer")
        self.end_of_writing = folder / "end-of-writing"

    def __enter__(self) -> Self:
        share = self.load.event_count // WRITER_COUNT + 1
        arguments = [str(share), str(self.load.writer_rate), str(self.end_of_writing)]
        self.writers = [
            self.start(
                f"writer{seed}", sys.executable, "-m", counting.__name__, *arguments, str(seed)
            )
            for seed in range(WRITER_COUNT)
        ]
        self.relay = self.start("relay", *self.program, "relay", "--log-format", "json")
        self.workers = [self.start(f"worker{number}", *self.consume) for number in range(2)]
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.close()

    def start(self, name: str, *command: str) -> Process:
        process = Process(self.folder / f"{name}.log", self.environment, *command)
        self.closing.callback(process.close)
        return process

    def blows(self) -> list[Callable[[], None]]:
        blows = [self.kill_the_relay] * self.load.relay_kills
        blows += [self.kill_a_worker] * self.load.worker_kills
        self.dice.shuffle(blows)
        blows.insert(len(blows) // 2, self.kill_the_broker)
        return blows

    def kill_the_relay(self) -> None:
        wait_for_progress(lambda: route_version(self.engine), self.folder)
        time.sleep(self.dice.random() * 0.3)  # anywhere in its work
        self.relay.kill()
        self.relay.start()

    def kill_a_worker(self) -> None:
        wait_for_progress(lambda: effect_count(self.engine), self.folder)
        time.sleep(self.dice.random() * 0.3)  # anywhere in its work
        victim = self.dice.choice(self.workers)
        victim.kill()
        victim.start()

    def kill_the_broker(self) -> None:
        wait_for_progress(lambda: route_version(self.engine), self.folder)
        self.broker.kill()
        self.broker.start()

    def let_writers_end(self) -> None:
        self.end_of_writing.touch()
        for writer in self.writers:
            assert writer.process.wait(self.load.timeout_seconds) == 0, writer.log.read_text()

    def finish(self) -> None:
        """Stop as an operator does, and deliver and handle whatever is left."""
        assert self.relay.stop() == 0, self.relay.log.read_text()[-4000:]
        drained = self.start("drain", *self.program, "relay", "--drain")
        assert drained.process.wait(120) == 0, drained.log.read_text()
        assert [worker.stop() for worker in self.workers] == [0, 0]
        rest = self.start("rest", *self.consume, "--until-idle", "5")
        assert rest.process.wait(120) == 0, rest.log.read_text()


def count(engine: sa.Engine, records: list[tuple[int, int]]) -> Counts:
    """Count what arrived, how often, and in which order, in tables and at the broker."""
    with engine.connect() as connection:
        values = connection.execute(sa.select(counting.Counter.id, counting.Counter.value)).all()
        effects = connection.execute(
            sa.select(counting.Effect.counter_id, counting.Effect.value).order_by(
                counting.Effect.id
            )
        ).all()
    expected = {(key, value) for key, top in values for value in range(1, top + 1)}
    seen = Tally((key, value) for key, value in effects)
    firsts = list(dict.fromkeys(records))
    return Counts(
        committed=len(expected),
        effects=len(effects),
        lost=len(expected - seen.keys()),
        doubled=sum(times - 1 for times in seen.values()),
        phantom=len(seen.keys() - expected),
        reordered_effects=reversals([(key, value) for key, value in effects]),
        records=len(records),
        record_duplicates=len(records) - len(firsts),
        reordered_records=reversals(firsts),
    )


def reversals(events: list[tuple[int, int]]) -> int:
    """Count the events that come behind a later one of their counter."""
    highest: dict[int, int] = {}
    found = 0
    for key, value in events:
        found += value < highest.get(key, 0)
        highest[key] = max(value, highest.get(key, 0))
    return found


def topic_content(broker: KafkaServer) -> Iterator[tuple[int, int]]:
    """Read the committed records of the whole topic, partition by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "count",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    for number in range(PARTITION_COUNT):
        partition = TopicPartition(TOPIC, number, 0)
        _, high = consumer.get_watermark_offsets(partition, timeout=10)
        consumer.assign([partition])
        while True:
            message = consumer.poll(10)
            assert message is not None, "a transaction was left open"
            error = message.error()
            if error is None:
                event = counting.CounterRaised.model_validate_json(message.value() or b"")
                yield event.counter_id, event.value
            elif (message.offset() or 0) >= high:
                break
    consumer.close()


def route_version(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(outbox_checkpoint.c.version)) or 0


def effect_count(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(counting.Effect)) or 0


def counter_total(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.sum(counting.Counter.value))) or 0


def wait_for_progress(measure: Callable[[], int], logs: Path) -> None:
    """Wait until a number has grown: the process in question works again."""
    start = measure()
    eventually(lambda: measure() > start, 120, lambda: tails(logs))


def tails(logs: Path) -> str:
    return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs.glob("*.log"))
