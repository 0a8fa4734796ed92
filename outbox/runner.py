"""Carries out what `settlement` and `letter_replay` decide, on the engine of a consumer."""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import TYPE_CHECKING, Final, Protocol

import sqlalchemy as sa

from outbox.batch import Pause
from outbox.dialect import MYSQL
from outbox.envelope import Envelope
from outbox.errors import ConfigurationError
from outbox.letter_replay import replay
from outbox.retry import BackOff
from outbox.rolled_back import watch
from outbox.settlement import settle
from outbox.transaction import AsyncTransaction, SyncTransaction

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.orm import Session

    from outbox.batch import Outcome
    from outbox.consumer import Consumer
    from outbox.reading import Received
    from outbox.settings import ConsumerSettings
    from outbox.settlement import Counts, Step
    from outbox.transaction import Job

    Steps = Generator[Step, Outcome | None, None]
    Report = Callable[[Counts], None]
    Unpack = Callable[[Envelope], Envelope]


NOTICE_SECONDS: Final = 0.1
"""A lane that waits looks so often whether it is to stop."""


class Runner(Protocol):
    """Runs the handlers of one consumer, from one thread, until it is closed."""

    def settle(self, batch: Sequence[Received], stop: threading.Event, report: Report) -> bool:
        """Settle a batch; return False where `stop` was set while it waited to go on."""
        ...

    def replay(self, stop: threading.Event, report: Report, unpack: Unpack) -> bool:
        """Try the dead letters that are ready; return False as above.

        `unpack` makes JSON of the data of one that has another format.
        """
        ...

    def run(self, prepare: Callable[[Session], Sequence[Job]]) -> Outcome:
        """Run one transaction."""
        ...

    def close(self) -> None:
        """Close the event loop, and the connections that belong to it."""
        ...


def runner_of(consumer: Consumer, settings: ConsumerSettings) -> Runner:
    """Return the runner for the kind of engine that a consumer has.

    Raises `ConfigurationError` for a database that the inbox does not know.
    """
    engine = consumer.engine
    if engine.dialect.name not in {"postgresql", "sqlite", *MYSQL}:
        raise ConfigurationError(
            f"the database of consumer {consumer.name!r} is {engine.dialect.name}: an inbox is"
            " kept on PostgreSQL, MariaDB, MySQL or SQLite"
        )
    if isinstance(engine, sa.Engine):
        watch(engine)
        return SyncRunner(consumer, engine, settings)
    watch(engine.sync_engine)
    return AsyncRunner(consumer, engine, settings)


class SyncRunner:
    """One transaction after the other; async handlers run on a loop of the runner's own."""

    def __init__(self, consumer: Consumer, engine: sa.Engine, settings: ConsumerSettings) -> None:
        """Make the loop, which starts when the first async handler needs it."""
        self._consumer = consumer
        self._settings = settings
        self._loop = asyncio.Runner()
        self._transaction = SyncTransaction(engine, settings.lock_timeout_seconds, self._loop)

    def settle(self, batch: Sequence[Received], stop: threading.Event, report: Report) -> bool:
        """See `Runner`."""
        return self._drive(settle(self._consumer, batch, self._settings.max_attempts, report), stop)

    def replay(self, stop: threading.Event, report: Report, unpack: Unpack) -> bool:
        """See `Runner`."""
        steps = replay(self._consumer, self._settings.max_attempts, report, unpack)
        return self._drive(steps, stop)

    def run(self, prepare: Callable[[Session], Sequence[Job]]) -> Outcome:
        """See `Runner`."""
        return self._transaction.run(prepare)

    def close(self) -> None:
        """See `Runner`."""
        self._loop.close()

    def _drive(self, steps: Steps, stop: threading.Event) -> bool:
        step = next(steps, None)
        while step is not None:
            outcome: Outcome | None = None
            if isinstance(step, Pause):
                if stop.wait(wait_seconds(step, self._settings)):
                    return False
            else:
                outcome = self._transaction.run(step.prepare)
            step = send(steps, outcome)
        return True


class AsyncRunner:
    """Lanes of one batch run at the same time on one loop; a key is always in one lane."""

    def __init__(self, consumer: Consumer, engine: AsyncEngine, settings: ConsumerSettings) -> None:
        """Take an engine whose connections no other loop uses."""
        self._consumer = consumer
        self._engine = engine
        self._settings = settings
        # SQLite has one writer at a time, so lanes would only wait for each other.
        self._lane_count = 1 if engine.dialect.name == "sqlite" else settings.lane_count
        self._loop = asyncio.Runner()
        self._transaction = AsyncTransaction(engine, settings.lock_timeout_seconds)

    def settle(self, batch: Sequence[Received], stop: threading.Event, report: Report) -> bool:
        """See `Runner`."""

        async def all_lanes() -> bool:
            found = await asyncio.gather(
                *(
                    self._drive(
                        settle(self._consumer, lane, self._settings.max_attempts, report), stop
                    )
                    for lane in lanes(batch, self._lane_count)
                ),
                return_exceptions=True,  # so that no lane is cancelled in its transaction
            )
            for result in found:
                if isinstance(result, BaseException):
                    raise result
            return all(found)

        return self._loop.run(all_lanes())

    def replay(self, stop: threading.Event, report: Report, unpack: Unpack) -> bool:
        """See `Runner`."""
        steps = replay(self._consumer, self._settings.max_attempts, report, unpack)
        return self._loop.run(self._drive(steps, stop))

    def run(self, prepare: Callable[[Session], Sequence[Job]]) -> Outcome:
        """See `Runner`."""
        return self._loop.run(self._transaction.run(prepare))

    def close(self) -> None:
        """See `Runner`."""
        self._loop.run(self._engine.dispose())
        self._loop.close()

    async def _drive(self, steps: Steps, stop: threading.Event) -> bool:
        step = next(steps, None)
        while step is not None:
            outcome: Outcome | None = None
            if isinstance(step, Pause):
                if await stopped_within(stop, wait_seconds(step, self._settings)):
                    return False
            else:
                outcome = await self._transaction.run(step.prepare)
            step = send(steps, outcome)
        return True


async def stopped_within(stop: threading.Event, seconds: float) -> bool:
    """Wait like `stop.wait(seconds)`, while other lanes go on; it may notice a little later."""
    end = time.monotonic() + seconds
    while not stop.is_set() and (left := end - time.monotonic()) > 0:  # noqa: ASYNC110  # threads set it
        await asyncio.sleep(min(left, NOTICE_SECONDS))
    return stop.is_set()


def wait_seconds(pause: Pause, settings: ConsumerSettings) -> float:
    """Return how long to pause."""
    back_off = BackOff(settings.retry_max_seconds)
    back_off.attempt_count = pause.count - 1
    return back_off.next()


def send(steps: Steps, outcome: Outcome | None) -> Step | None:
    """Answer a step and return the next one; None at the end."""
    try:
        return steps.send(outcome)
    except StopIteration:
        return None


def lanes(batch: Sequence[Received], count: int) -> list[list[Received]]:
    """Divide a batch by key, order kept; events without a key go anywhere."""
    divided: list[list[Received]] = [[] for _ in range(count)]
    for received in batch:
        key = received.content.partition_key if isinstance(received.content, Envelope) else None
        divided[zlib.crc32((key or received.name).encode()) % count].append(received)
    return [lane for lane in divided if lane]
