"""One worker of a consumer: receive → handle → acknowledge, until it is told to stop."""

from __future__ import annotations

import gc
import logging
import time
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from outbox import formats
from outbox.batch import Done
from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    DatabaseUnavailableError,
    DestinationRefusedError,
    TransientError,
)
from outbox.reading import read_all
from outbox.retry import BackOff
from outbox.runner import runner_of
from outbox.settings import ConsumerSettings
from outbox.settlement import Counts
from outbox.table import outbox_dead_letter, outbox_inbox
from outbox.transports import receiving_transport_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import Session

    from outbox.consumer import Consumer
    from outbox.envelope import Envelope
    from outbox.formats.unpack import Unpacker
    from outbox.reading import Received
    from outbox.runner import Runner
    from outbox.settings import Settings
    from outbox.transaction import Job
    from outbox.transport import Delivery, Subscriber

logger = logging.getLogger(__name__)

RECEIVE_SECONDS: Final = 0.5
"""How long one receive waits for the first event; stopping takes no longer."""
LETTERS_SECONDS: Final = 1.0
"""How often the worker looks for dead letters to be tried again."""
PATIENCE_SECONDS: Final = 30.0
"""How long a worker that is to stop when idle waits for a broker that does not let it receive."""
QUIET_SECONDS: Final = 5.0
"""How long receiving goes on without an error before an outage counts as over. A client that has
lost its broker says so now and then only, and returns nothing in between."""
TELL_SECONDS: Final = 30.0
"""The time between two log lines about one outage of the broker."""


class Worker:
    """Receives for one consumer and runs its handlers; a subscriber and a thread of its own.

    Delivery is at-least-once; what handlers write through their session happens once, because
    the inbox row commits with it.
    """

    def __init__(
        self,
        consumer: Consumer,
        subscriber: Subscriber,
        settings: ConsumerSettings | None = None,
        unpacker: Unpacker | None = None,
    ) -> None:
        """Take a subscriber and what makes JSON of data in other formats; `run` closes both."""
        self.counts = Counts()
        """What became of the events so far."""
        self._consumer = consumer
        self._subscriber = subscriber
        self._settings = settings or ConsumerSettings()
        self._unpacker = unpacker

    def run(self, stop: threading.Event, *, idle_timeout: float | None = None) -> Counts:
        """Work until `stop` is set; then finish the batch, acknowledge it and leave the group.

        A batch that is waiting for its next attempt is not waited for: it is left to another
        worker. With `idle_timeout`, it also returns when nothing was received for so many
        seconds and no dead letter is ready.

        Raises `DatabaseUnavailableError` where the database does not answer at the start (later
        it is waited for), `ConfigurationError` where tables, rights or handlers are missing, and
        with `idle_timeout` also a broker's `TransientError` that lasts.
        """
        try:
            if not self._consumer.handlers.types:
                raise ConfigurationError(f"consumer {self._consumer.name!r} has no handler")
            runner = runner_of(self._consumer, self._settings)
            try:
                self._check(runner)
                self._work(runner, stop, idle_timeout)
            except SystemExit as exc:
                # It is no failure that could be retried, but nobody should have to guess it.
                facts = {"consumer": self._consumer.name, "exit_code": exc.code}
                logger.critical("a handler ended its worker by SystemExit", extra=facts)
                raise
            finally:
                runner.close()
        finally:
            self._subscriber.close()
            if self._unpacker is not None:
                self._unpacker.close()
        return self.counts

    def _work(self, runner: Runner, stop: threading.Event, idle_timeout: float | None) -> None:
        inlet = Inlet(self._subscriber, self._settings, idle_timeout, self._read)
        active_at = time.monotonic()
        letters_at = -LETTERS_SECONDS
        while not stop.is_set():
            deliveries, received = inlet.receive(stop)
            if deliveries:
                if not runner.settle(received, stop, self._report):
                    return
                inlet.acknowledge(deliveries)
            now = time.monotonic()
            is_active = bool(deliveries) or inlet.is_down
            if is_active:
                active_at = now
            is_idle = idle_timeout is not None and now - active_at >= idle_timeout and not is_active
            if is_idle or now - letters_at >= LETTERS_SECONDS:
                before = self.counts
                if not runner.replay(stop, self._report, self._unpack):
                    return
                letters_at = time.monotonic()
                if self.counts != before:
                    active_at = letters_at
                elif is_idle:
                    return

    def _unpack(self, envelope: Envelope) -> Envelope:
        """Make JSON of a dead letter whose data could not be read when it came."""
        return envelope if self._unpacker is None else self._unpacker.unpack(envelope)

    def _read(self, deliveries: Sequence[Delivery]) -> list[Received]:
        received = read_all(deliveries)
        if self._unpacker is not None:
            received = self._unpacker.unpack_all(received, self._consumer.handlers)
        return received

    def _report(self, counts: Counts) -> None:
        self.counts += counts

    def _check(self, runner: Runner) -> None:
        """Raise where the tables cannot be read, before anything is received."""

        def look(session: Session) -> Sequence[Job]:
            for table in (outbox_inbox, outbox_dead_letter):
                session.connection().execute(sa.select(1).select_from(table).limit(0))
            return []

        outcome = runner.run(look)
        if not isinstance(outcome, Done):
            error = getattr(outcome.error, "orig", None) or outcome.error
            raise DatabaseUnavailableError(
                f"the database of consumer {self._consumer.name!r} does not answer: {error}"
            ) from outcome.error


class Inlet:
    """The subscriber, with patience for its broker."""

    def __init__(
        self,
        subscriber: Subscriber,
        settings: ConsumerSettings,
        idle_timeout: float | None,
        read: Callable[[Sequence[Delivery]], list[Received]],
    ) -> None:
        """Give up on a broker only where the worker is to stop when idle.

        What `read` cannot read now, because a schema registry does not answer, is given back.
        """
        self._subscriber = subscriber
        self._read = read
        self._limit = settings.batch_size
        self._patience = None if idle_timeout is None else PATIENCE_SECONDS
        self._waits = BackOff(settings.retry_max_seconds)
        self._failed_at = 0.0
        """When the outage began."""
        self._last_failed_at = 0.0
        self._told: tuple[str, float] | None = None
        """What was logged last about the outage, and when."""

    @property
    def is_down(self) -> bool:
        """Receiving failed, and neither an event nor a quiet time has shown that this is over."""
        return self._waits.attempt_count > 0

    def receive(self, stop: threading.Event) -> tuple[Sequence[Delivery], list[Received]]:
        """Return deliveries, read; none after a time-out, or a back-off where receiving failed."""
        try:
            deliveries = self._subscriber.receive(self._limit, RECEIVE_SECONDS)
            received = self._read_or_give_back(deliveries)
        except (BrokerUnavailableError, DestinationRefusedError) as exc:
            self._back_off(exc, stop)
            return [], []
        if self.is_down and (
            deliveries or time.monotonic() - self._last_failed_at >= QUIET_SECONDS
        ):
            self._waits.reset()
            self._told = None
            logger.info("receiving again")
        return deliveries, received

    def _read_or_give_back(self, deliveries: Sequence[Delivery]) -> list[Received]:
        try:
            return self._read(deliveries)
        except TransientError:
            self._subscriber.nack(deliveries)
            raise

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge what is settled; without it they come again, and the inbox knows them."""
        try:
            self._subscriber.ack(deliveries)
        except TransientError as exc:
            logger.warning("not acknowledged; they may come again", extra={"error": str(exc)})

    def _back_off(self, error: TransientError, stop: threading.Event) -> None:
        now = time.monotonic()
        if not self.is_down:
            self._failed_at = now
        elif self._patience is not None and now - self._failed_at >= self._patience:
            raise error
        text = str(error)
        if self._told is None or self._told[0] != text or now - self._told[1] >= TELL_SECONDS:
            self._told = (text, now)
            logger.warning("cannot receive; waiting", extra={"error": text})
        stop.wait(self._waits.next())
        self._last_failed_at = time.monotonic()


def spare_collector() -> None:
    """Let Python's cyclic garbage collector run seldom; for a process that only consumes.

    A batch of 500 is ten thousand objects, which go by themselves after the commit. Python looked
    through them for cycles a dozen times, and now and then through all that was ever imported:
    a third of a worker's time. What does make cycles is still found, a little later.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def open_worker(consumer: Consumer, settings: Settings) -> Worker:
    """Make a worker that receives as the settings say; connects in `run` at the latest.

    It receives from the consumer's route, by default the first, and from the consumer's topics,
    by default those of the types that it handles. Raises `ConfigurationError`, and
    `EventDefinitionError` for a class that is not complete or a gap in a chain of upcasters.
    """
    consumer.handlers.check()
    own = settings.consumers.get(consumer.name, ConsumerSettings())
    if own.route is None and not settings.routes:
        raise ConfigurationError(
            f"consumer {consumer.name!r} has no route to receive from: add [routes.NAME] to the"
            " settings"
        )
    route = own.route or next(iter(settings.routes))
    transport, options = receiving_transport_of(route, settings.route(route))
    topics = own.topics or _topics(consumer, lambda name: transport.topic_of(options, name))
    subscriber = transport.subscriber(route, options, consumer.name, topics)
    unpacker = None
    schemas = settings.route(route).schemas
    if schemas is not None:
        unpacker = formats.unpacker(route, schemas)
    return Worker(consumer, subscriber, own, unpacker)


def _topics(consumer: Consumer, topic_of: Callable[[str], str | None]) -> list[str]:
    topics: set[str] = set()
    for event_type in consumer.handlers.types:
        topic = topic_of(event_type)
        if topic is None:
            raise ConfigurationError(
                f"the topic of {event_type} depends on more than its type, so"
                f" consumers.{consumer.name}.topics has to name the topics to receive from"
            )
        topics.add(topic)
    return sorted(topics)
