"""Publishing to Kafka exactly once: a batch and the progress behind it in one transaction.

    init ─▶ begin ─▶ produce batch, progress ─▶ flush ─▶ commit ─▶ begin …
      ▲                   │ a failure                     │ no answer, or fenced
      │                   ▼                               ▼
      └───────────── abort: nothing was stored       in doubt: the last progress tells

Only the producer that was made last under a `transactional.id` may write; brokers turn away
every older one, so a relay that was replaced while it stood still can do no harm.
"""

from __future__ import annotations

import logging
import math
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException

from outbox.errors import HeldBackError, InDoubtError, TransientError
from outbox.transports.kafka.desk import SENDING_SHARE, Desk, late
from outbox.transports.kafka.errors import (
    AGAIN,
    DENIED,
    FENCED,
    UNFIT,
    UNKNOWN,
    transient,
    unfit,
)
from outbox.transports.kafka.progress import KEY, ProgressTopic
from outbox.transports.kafka.rest import Rest
from outbox.transports.page import Page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope
    from outbox.transport import Outcome
    from outbox.transports.kafka.encode import Record
    from outbox.transports.kafka.options import Options
    from outbox.transports.kafka.sender import Sender

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 4
"""Transactions that one publish may begin: after an abort the next one may fail for no reason of
its own, and a topic's limit may be found on the way."""
_FEW: Final = 500
"""Events that a broker takes in no time of their own."""
_LONGEST_NAME: Final = 249


class _FailedError(Exception):
    """A transaction was taken back, for this cause."""

    def __init__(self, error: KafkaError | None, topic: str | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.topic = topic or ""


class TransactionalKafkaPublisher:
    """See `TransactionalPublisher`; each publish is one transaction."""

    def __init__(self, route: str, options: Options, timeout: float) -> None:
        self._route = route
        self._options = options
        self._timeout = timeout
        self._desk: Desk | None = None
        self._progress: ProgressTopic | None = None
        self._ready: Sender | None = None
        """The sender that may begin a transaction."""
        self._rest = Rest()
        self._committed_at = -math.inf

    def take_over(self, identity: str) -> bytes | None:
        """See `TransactionalPublisher.take_over`."""
        deadline = self._deadline()
        if self._desk is None or self._progress is None:
            name = _name(self._options.transaction_prefix, self._route, identity)
            # Consumers wait for a transaction that a relay left open; it is its share of the lease.
            further = {
                "transactional.id": name,
                "transaction.timeout.ms": str(int(self._timeout * 2000)),
            }
            self._desk = Desk(self._route, self._options, self._timeout, further)
            self._progress = ProgressTopic(name, self._options, self._desk.reports)
        self._ready = None
        self._desk.drop_clients()
        self._desk.connected(deadline)
        # At the same time, because both only wait for the broker.
        with ThreadPoolExecutor(1, "kafka-progress") as pool:
            created = pool.submit(self._progress.create, deadline)
            self._sender(deadline)
            created.result()
        return self._progress.last(deadline)

    def publish(self, batch: Sequence[Envelope], /) -> list[Outcome]:
        """See `Publisher.publish`: what is dead is left out, and the rest published without it."""
        page = Page(batch)
        self._settle(page, None, self._deadline(), without_dead=True)
        return page.outcomes()

    def publish_with(self, batch: Sequence[Envelope], progress: bytes, /) -> list[Outcome]:
        """See `TransactionalPublisher.publish_with`."""
        page = Page(batch)
        self._settle(page, progress, self._deadline(), without_dead=False)
        return page.outcomes()

    def close(self) -> None:
        """See `Publisher.close`."""
        self._ready = None
        if self._desk is not None:
            self._desk.drop_clients()

    def _settle(
        self, page: Page, progress: bytes | None, deadline: float, *, without_dead: bool
    ) -> None:
        """Settle every event of a page, by one transaction that is committed or by none."""
        try:
            for _ in range(_ATTEMPTS):
                indexes = _open(page)
                if page.failed_count and not (without_dead and indexes):
                    break
                try:
                    if self._transact(page, indexes, progress, deadline):
                        return
                except _FailedError as failed:
                    self._blame(page, indexes, failed)
            error: TransientError = _held() if page.failed_count else late()
        except InDoubtError as doubt:
            self._drop()
            if progress is not None:
                raise
            error = doubt
        except HeldBackError as exc:
            error = exc
        except TransientError as exc:
            error = self._stopped_by(exc)
        page.retry(_open(page), error)

    def _transact(
        self, page: Page, indexes: Sequence[int], progress: bytes | None, deadline: float
    ) -> bool:
        """Run one transaction; False where it was taken back and may be begun again.

        Raises `_FailedError` where the broker refused it, and `InDoubtError`.
        """
        sender = self._sender(deadline)
        # A relay that stood still while it connected may have been replaced meanwhile; one that
        # is replaced from here on is turned away.
        if time.monotonic() > deadline:
            raise late()
        desk, producer = self._working_desk(), sender.producer
        time.sleep(max(0.0, self._committed_at + self._rest.seconds - time.monotonic()))
        _begin(producer)
        is_sent = sender.queue(desk.records(page, indexes, deadline), deadline)
        rest = desk.take_rest(indexes)
        if is_sent and (rest.indexes or (progress is not None and page.failed_count)):
            self._abort(sender, deadline)
            if rest.error is not None:
                raise rest.error
            return False
        count = len(_open(page))
        if is_sent and progress is not None and self._progress is not None:
            end: Record = (self._progress.name, progress, KEY, [])
            is_sent = sender.queue(iter([end]), deadline)
        waits_since = time.monotonic()
        if not (is_sent and sender.drain(deadline)):
            cause = sender.cause
            self._abort(sender, deadline)
            raise _FailedError(*(cause or (None, None)))
        if count <= _FEW:
            self._rest.after(time.monotonic() - waits_since)
        self._commit(sender, deadline)
        self._committed_at = time.monotonic()
        page.published(count)
        return True

    def _commit(self, sender: Sender, deadline: float) -> None:
        while True:
            try:
                sender.producer.commit_transaction(_left(deadline))
            except KafkaException as exc:
                error: KafkaError = exc.args[0]
                if error.txn_requires_abort():
                    cause = sender.cause or (error, None)
                    self._abort(sender, deadline)
                    raise _FailedError(*cause) from exc
                if not error.retriable() or time.monotonic() > deadline:
                    raise _doubt(error) from exc
            else:
                return

    def _abort(self, sender: Sender, deadline: float) -> None:
        """Take a transaction back, now or, where the broker does not answer, by the next init."""
        try:
            sender.producer.abort_transaction(_left(deadline) + self._timeout * 0.1)
            sender.look()
        except KafkaException as exc:
            if exc.args[0].code() in FENCED:
                raise _doubt(exc.args[0]) from exc
            self._drop()
        else:
            sender.forget_failures()

    def _blame(self, page: Page, indexes: Sequence[int], failed: _FailedError) -> None:
        """Settle the event that is at fault, or raise; returns to try again without it."""
        error = failed.error
        if error is None:
            raise late()
        if error.code() in FENCED:
            raise _doubt(error)
        if error.code() in AGAIN:
            return
        if error.code() in UNFIT:
            # The topic's limit may have changed: asked again, it shows who is at fault.
            self._working_desk().forget_topics()
            if len(indexes) > 1:
                raise HeldBackError(
                    f"the broker refuses one of {len(indexes)} events, and does not say which"
                    f" ({error.str()})"
                )
            if self._progress is None or failed.topic != self._progress.name:
                page.fail(indexes[0], unfit(error, failed.topic))
                return
        desk = self._working_desk()
        topics = failed.topic or desk.topics_of(page.rows[index] for index in indexes)
        refusal = transient(error, topics)
        if error.code() in UNKNOWN | DENIED and failed.topic:
            desk.refuse(failed.topic, refusal)
        raise refusal

    def _sender(self, deadline: float) -> Sender:
        """Return the sender that writes for the route; a new one turns every older one away."""
        sender = self._working_desk().sender()
        if sender is not self._ready:
            self._ready = None
            # Without a connection the next call would wait for half a second's timer.
            self._working_desk().connected(deadline)
            try:
                sender.producer.init_transactions(_left(deadline))
            except KafkaException as exc:
                error: KafkaError = exc.args[0]
                if error.code() in FENCED:
                    raise _doubt(error) from exc
                raise transient(error) from exc
            self._ready = sender
        return sender

    def _working_desk(self) -> Desk:
        if self._desk is None:
            raise RuntimeError("take_over has to be called first: it names the producer")
        return self._desk

    def _stopped_by(self, error: TransientError) -> TransientError:
        self._ready = None
        return error if self._desk is None else self._desk.stopped_by(error)

    def _drop(self) -> None:
        self._ready = None
        if self._desk is not None:
            self._desk.drop_clients()

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout * SENDING_SHARE


def _begin(producer: Any) -> None:
    try:
        producer.begin_transaction()
    except KafkaException as exc:
        error: KafkaError = exc.args[0]
        raise _doubt(error) if error.code() in FENCED else transient(error) from exc


def _open(page: Page) -> Sequence[int]:
    indexes = range(len(page.rows))
    if not page.failed_count:
        return indexes
    return [index for index in indexes if not page.is_settled(index)]


def _held() -> HeldBackError:
    return HeldBackError("another event of its transaction could not be published")


def _doubt(error: KafkaError) -> InDoubtError:
    if error.code() in FENCED:
        return InDoubtError(
            "another producer has taken this route's place at the broker, or its transaction"
            f" lasted too long ({error.str()})"
        )
    return InDoubtError(f"whether the last transaction was committed is not known: {error.str()}")


def _left(deadline: float) -> float:
    return max(0.05, deadline - time.monotonic())


def _name(prefix: str, route: str, identity: str) -> str:
    """Return what a route is called at the broker: its transactional.id, its progress's topic."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", route)
    room = _LONGEST_NAME - len(prefix) - len(identity) - 1
    return f"{prefix}{plain[:room]}-{identity}"
