"""Publishing to Kafka at least once: an idempotent producer, a flush a batch, order per key."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from outbox.errors import TransientError
from outbox.transports.kafka.desk import SENDING_SHARE, Desk, late
from outbox.transports.kafka.errors import DENIED, UNFIT, UNKNOWN, transient, unfit
from outbox.transports.kafka.sender import Failure
from outbox.transports.page import Page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope
    from outbox.transport import Outcome
    from outbox.transports.kafka.options import Options


class KafkaPublisher:
    """Publishes with an idempotent producer, all replicas acknowledging.

    What a topic cannot take is `Dead` before it is sent. At the first failure the producer is
    purged and replaced, so that nothing is in flight between two publishes.
    """

    def __init__(self, route: str, options: Options, timeout: float) -> None:
        self._timeout = timeout
        self._desk = Desk(route, options, timeout)

    def publish(self, batch: Sequence[Envelope], /) -> list[Outcome]:
        """See `Publisher.publish`."""
        deadline = time.monotonic() + self._timeout * SENDING_SHARE
        page = Page(batch)
        self._settle(page, range(len(page.rows)), deadline, may_ask_again=True)
        return page.fenced_outcomes()

    def close(self) -> None:
        """See `Publisher.close`."""
        self._desk.drop_clients()

    def _settle(
        self, page: Page, indexes: Sequence[int], deadline: float, *, may_ask_again: bool
    ) -> TransientError | None:
        """Settle these events; return the error that stops the rest of the page, if any."""
        while indexes:
            if time.monotonic() > deadline:
                return self._stop(page, indexes, late())
            try:
                sender = self._desk.connected(deadline)
            except TransientError as exc:
                return self._stop(page, indexes, exc)
            sent = sender.send(self._desk.records(page, indexes, deadline), deadline)
            if isinstance(sent, Failure):
                self._desk.drop_clients()
                return self._resolve(page, indexes, sent, deadline, may_ask_again=may_ask_again)
            page.published(sent)
            rest = self._desk.take_rest(indexes)
            if rest.error is not None:
                return self._stop(page, rest.indexes, rest.error)
            indexes = rest.indexes
        return None

    def _resolve(
        self,
        page: Page,
        indexes: Sequence[int],
        failure: Failure,
        deadline: float,
        *,
        may_ask_again: bool,
    ) -> TransientError | None:
        """Settle what arrived, and by the cause what did not."""
        unsettled = self._unsettled(page, indexes, failure)
        error, topic = failure.error, failure.topic
        if error is None:
            return self._stop(page, unsettled, late())
        if error.code() in UNFIT:
            if may_ask_again:
                # The topic's limit may have changed: asked again, it shows who is at fault.
                return self._settle(page, unsettled, deadline, may_ask_again=False)
            if len(unsettled) > 1:
                return self._bisect(page, unsettled, deadline)
            page.fail(unsettled[0], unfit(error, topic))
            return None
        if error.code() in UNKNOWN | DENIED:
            # The other topics of the page are not at fault.
            self._desk.refuse(topic, transient(error, topic))
            return self._settle(page, unsettled, deadline, may_ask_again=may_ask_again)
        return self._stop(page, unsettled, transient(error, topic))

    def _unsettled(self, page: Page, indexes: Sequence[int], failure: Failure) -> Sequence[int]:
        """Settle what is known to have arrived; return the rest, what was not sent included."""
        open_ = [index for index in indexes if not page.is_settled(index)]
        queued = open_[: failure.queued_count]
        if failure.reported is None:
            return open_
        names = [self._desk.identity(page.rows[index]) for index in queued]
        # A report that fits no record would hide one that failed: then nothing counts as arrived.
        if not failure.reported <= set(names):
            return open_
        failed = [i for i, name in zip(queued, names, strict=True) if name in failure.reported]
        page.published(len(queued) - len(failed))
        return failed + open_[failure.queued_count :]

    def _bisect(
        self, page: Page, unsettled: Sequence[int], deadline: float
    ) -> TransientError | None:
        """Publish the halves one after the other, to find the record that is refused."""
        middle = len(unsettled) // 2
        stopped = self._settle(page, unsettled[:middle], deadline, may_ask_again=False)
        if stopped is not None:
            page.retry(unsettled[middle:], stopped)
            return stopped
        return self._settle(page, unsettled[middle:], deadline, may_ask_again=False)

    def _stop(self, page: Page, indexes: Sequence[int], error: TransientError) -> TransientError:
        """Give up on the rest of this page."""
        error = self._desk.stopped_by(error)
        page.retry([index for index in indexes if not page.is_settled(index)], error)
        return error
