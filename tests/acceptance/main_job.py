"""The main job, whatever carries the events: writers commit, each event has one effect, in order.

Meanwhile everything is killed. What came of it is counted from the database, and by the test of
a transport also from its broker.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter as Tally
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

import sqlalchemy as sa

from tests.acceptance import counting
from tests.progress import floor
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pytest

PROGRAM: Final = Path(sys.executable).with_name("outbox")
CONSUMER: Final = f"{counting.__name__}:consumer"
TOPIC: Final = "counting.counter"
WRITER_COUNT: Final = 8

Raised = tuple[int, int]
"""A counter and its new value: what an event tells."""


@dataclass(frozen=True)
class Load:
    """How much is written, and how much is killed meanwhile."""

    event_count: int
    relay_kills: int
    """Each once the relay has moved its position."""
    worker_kills: int
    """Each once there are more effects."""
    writer_rate: float = 20.0
    """Transactions of one writer in a second; it goes on as long as things are killed."""
    timeout_seconds: float = 300.0


@dataclass(frozen=True)
class Counts:
    """What arrived of all that was committed."""

    committed: int
    arrived: int
    lost: int
    doubled: int
    phantom: int
    reordered: int
    """Of those that came for the first time."""


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
        assert self.process.poll() is None, f"it ended by itself: {self.tail()}"
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ask it to end, as an operator does, and expect success."""
        self.process.terminate()
        self.succeed(60)

    def succeed(self, seconds: float) -> None:
        assert self.process.wait(seconds) == 0, self.tail()

    def tail(self) -> str:
        return self.log.read_text()[-4000:]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Broker(Protocol):
    """A server that can be killed, and keeps what it had stored."""

    def kill(self) -> None: ...

    def start(self) -> None: ...


class Fleet(ABC):
    """Eight writers, the processes that bring their events home, and what befalls these."""

    def __init__(self, load: Load, engine: sa.Engine, folder: Path, settings: str) -> None:
        self.load, self.engine, self.folder = load, engine, folder
        self.dice = random.Random(4)
        self.closing = ExitStack()
        url = engine.url.render_as_string(hide_password=False)
        self.environment = {"OUTBOX_DATABASE_URL": url, "COUNTING_DATABASE_URL": url}
        path = folder / "outbox.toml"
        path.write_text(settings)
        self.program = (str(PROGRAM), "--config", str(path))
        self.end_of_writing = folder / "end-of-writing"

    @abstractmethod
    def launch(self) -> None:
        """Start all but the writers."""

    @abstractmethod
    def blows(self) -> list[Callable[[], None]]:
        """Return what befalls it, in an order drawn by lot; each waits until it works again."""

    @abstractmethod
    def finish(self) -> None:
        """Stop as an operator does, and deliver and handle whatever is left."""

    def __enter__(self) -> Self:
        with self.closing as closing:  # of a fleet that cannot be launched, too
            self._launch_all()
            self.closing = closing.pop_all()
        return self

    def _launch_all(self) -> None:
        share = self.load.event_count // WRITER_COUNT + 1
        arguments = [str(share), str(self.load.writer_rate), str(self.end_of_writing)]
        self.writers = [
            self.start(
                f"writer{seed}", sys.executable, "-m", counting.__name__, *arguments, str(seed)
            )
            for seed in range(WRITER_COUNT)
        ]
        self.launch()

    def __exit__(self, *_: object) -> None:
        self.closing.close()

    def start(self, name: str, *command: str) -> Process:
        process = Process(self.folder / f"{name}.log", self.environment, *command)
        self.closing.callback(process.close)
        return process

    def let_writers_end(self) -> None:
        self.end_of_writing.touch()
        for writer in self.writers:
            writer.succeed(self.load.timeout_seconds)

    def kill_after_progress(
        self, choose: Callable[[], Process], measure: Callable[[sa.Engine], int]
    ) -> None:
        self.wait_for_progress(measure)
        time.sleep(self.dice.random() * 0.3)  # anywhere in its work
        victim = choose()
        victim.kill()
        victim.start()

    def wait_for_progress(self, measure: Callable[[sa.Engine], int]) -> None:
        """Wait until a number has grown: the process in question works again."""
        start = measure(self.engine)
        eventually(lambda: measure(self.engine) > start, 120, self.tails)

    def tails(self) -> str:
        logs = self.folder.glob("*.log")
        return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in logs)


class Apart(Fleet):
    """A relay and two workers, each a process of its own, with a broker between them."""

    def __init__(
        self, load: Load, engine: sa.Engine, folder: Path, settings: str, broker: Broker
    ) -> None:
        super().__init__(load, engine, folder, settings)
        self.broker = broker
        self.consume = (*self.program, "consume", CONSUMER)

    def launch(self) -> None:
        self.relay = self.start("relay", *self.program, "relay", "--log-format", "json")
        self.workers = [self.start(f"worker{number}", *self.consume) for number in range(2)]

    def blows(self) -> list[Callable[[], None]]:
        blows = [self.kill_the_relay] * self.load.relay_kills
        blows += [self.kill_a_worker] * self.load.worker_kills
        self.dice.shuffle(blows)
        blows.insert(len(blows) // 2, self.kill_the_broker)
        return blows

    def kill_the_relay(self) -> None:
        self.kill_after_progress(lambda: self.relay, floor)

    def kill_a_worker(self) -> None:
        self.kill_after_progress(lambda: self.dice.choice(self.workers), effect_count)

    def kill_the_broker(self) -> None:
        self.wait_for_progress(floor)
        self.broker.kill()
        self.broker.start()

    def finish(self) -> None:
        self.relay.stop()
        self.start("drain", *self.program, "relay", "--drain").succeed(120)
        for worker in self.workers:
            worker.stop()
        self.start("rest", *self.consume, "--until-idle", "5").succeed(120)


class Together(Fleet):
    """One process that is relay, broker and worker: whichever is killed, all die."""

    def launch(self) -> None:
        self.everything = self.start("everything", *self.relay_command("--log-format", "json"))

    def blows(self) -> list[Callable[[], None]]:
        blows = [self.kill_it_relaying] * self.load.relay_kills
        blows += [self.kill_it_working] * self.load.worker_kills
        self.dice.shuffle(blows)
        return blows

    def kill_it_relaying(self) -> None:
        self.kill_after_progress(lambda: self.everything, floor)

    def kill_it_working(self) -> None:
        self.kill_after_progress(lambda: self.everything, effect_count)

    def finish(self) -> None:
        self.everything.stop()
        self.start("drain", *self.relay_command("--drain")).succeed(120)

    def relay_command(self, *options: str) -> tuple[str, ...]:
        return (*self.program, "relay", "--consume", CONSUMER, *options)


def run(fleet: Fleet) -> None:
    """Write, relay and consume under all blows, until what was committed has its effect."""
    prepare(fleet.engine)
    with fleet:
        for blow in fleet.blows():
            blow()
        fleet.let_writers_end()
        committed = counter_total(fleet.engine)
        eventually(
            lambda: effect_count(fleet.engine) >= committed,
            fleet.load.timeout_seconds,
            lambda: f"{compare(fleet.engine, effects(fleet.engine))}\n{fleet.tails()}",
        )
        # Whatever is still on its way, duplicates above all, has to have no effect.
        fleet.finish()


def prepare(engine: sa.Engine) -> None:
    counting.Base.metadata.create_all(engine)
    with engine.begin() as connection:
        rows = [{"id": number, "value": 0} for number in range(1, counting.COUNTER_COUNT + 1)]
        connection.execute(sa.insert(counting.Counter), rows)


def show(capsys: pytest.CaptureFixture[str], **counts: Counts) -> None:
    """Print counts whatever pytest captures: they are what these tests are about."""
    with capsys.disabled():
        for what, found in counts.items():
            sys.stdout.write(f"\n{what}: {found}")
        sys.stdout.write("\n")


def expect_once(counts: Counts, *, at_least: int) -> None:
    """Expect that all came, each once and in order, and nothing else."""
    assert counts.committed >= at_least, counts
    all_of_it = counts.committed
    assert counts == Counts(all_of_it, all_of_it, lost=0, doubled=0, phantom=0, reordered=0), counts


def compare(engine: sa.Engine, arrived: Sequence[Raised]) -> Counts:
    """Count what is wrong with all that arrived, in the order of its arrival."""
    with engine.connect() as connection:
        values = connection.execute(sa.select(counting.Counter.id, counting.Counter.value)).all()
    expected = {(key, value) for key, top in values for value in range(1, top + 1)}
    seen = Tally(arrived)
    return Counts(
        committed=len(expected),
        arrived=len(arrived),
        lost=len(expected - seen.keys()),
        doubled=sum(times - 1 for times in seen.values()),
        phantom=len(seen.keys() - expected),
        reordered=reversals(list(dict.fromkeys(arrived))),
    )


def effects(engine: sa.Engine) -> list[Raised]:
    """Return what the consumer did, in order."""
    chosen = sa.select(counting.Effect.counter_id, counting.Effect.value)
    with engine.connect() as connection:
        rows = connection.execute(chosen.order_by(counting.Effect.id))
        return [(key, value) for key, value in rows]


def raised(data: bytes) -> Raised:
    """Read what an event tells."""
    event = counting.CounterRaised.model_validate_json(data)
    return event.counter_id, event.value


def reversals(events: Sequence[Raised]) -> int:
    """Count the events that come behind a later one of their counter."""
    highest: dict[int, int] = {}
    found = 0
    for key, value in events:
        found += value < highest.get(key, 0)
        highest[key] = max(value, highest.get(key, 0))
    return found


def effect_count(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(counting.Effect)) or 0


def counter_total(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.sum(counting.Counter.value))) or 0
