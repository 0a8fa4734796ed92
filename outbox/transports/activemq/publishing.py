"""Publishing to ActiveMQ: transactions of the broker, each confirmed by one receipt."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from outbox.errors import (
    BrokerUnavailableError,
    DestinationRefusedError,
    HeldBackError,
    RecordRefusedError,
    TransientError,
)
from outbox.rows import SOURCE, TOPIC, TYPE, VERSION, to_envelope
from outbox.transports.activemq.destinations import source, target
from outbox.transports.activemq.dialling import Dialler
from outbox.transports.activemq.encode import Encoder
from outbox.transports.activemq.errors import ErrorFrameError, LateError
from outbox.transports.activemq.frames import encode
from outbox.transports.activemq.page import Batch, Event
from outbox.transports.topic import TopicTemplate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from outbox.envelope import Envelope
    from outbox.rows import Row
    from outbox.transport import Outcome
    from outbox.transports.activemq.link import Link
    from outbox.transports.activemq.options import Options

_SENDING_SHARE: Final = 0.9
"""Of the time-out; the rest is for what follows the deadline."""
_WINDOW_BYTES: Final = 8_000_000
"""Of one transaction, roughly: the broker keeps it in memory."""
_SAFETY: Final = 3.0
"""So many times the last one a transaction may take."""
_TRANSACTION: Final = b"t"
_KINDS: Final = 10_000
"""Kinds of events whose topic is remembered, at most."""
_NOBODY: Final = "1=0"
"""A selector that no message fits."""


class ActiveMqPublisher:
    """Publishes persistent messages, as many in one transaction as `in_flight` says.

    A transaction is stored as a whole or not at all, and the next one begins when it is. So
    after a failure nothing later is stored, and nothing is in flight between two publishes.
    """

    def __init__(self, route: str, options: Options, timeout: float) -> None:
        self._route = route
        self._options = options
        self._timeout = timeout
        self._template = TopicTemplate(options.topic)
        self._encoder = Encoder(options.max_message_bytes)
        self._dialler = Dialler(route, options)
        self._window = options.in_flight
        """Events of the next transaction, at most."""
        self._seconds = 0.0
        """What an event of the last transaction took."""
        self._link: Link | None = None
        self._topics: dict[tuple[object, ...], str] = {}
        self._ready: set[str] = set()
        """Topics whose queues are known to be there; a new connection has to look again."""

    def publish(self, batch: Sequence[Envelope], /) -> list[Outcome]:
        """See `Publisher.publish`."""
        deadline = time.monotonic() + self._timeout * _SENDING_SHARE
        page = Batch(batch)
        events = self._events(page)
        while events:
            window = _window(events, self._window)
            if len(events) < len(page.rows) and self._would_be_late(len(window), deadline):
                page.give_up(events, HeldBackError("the time was up; the rest is published next"))
                break
            error = self._settle(page, window, deadline)
            if error is not None:
                page.give_up(events, error)
                break
            events = page.unsettled(events)
        return page.outcomes()

    def close(self) -> None:
        """See `Publisher.close`."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _events(self, page: Batch) -> list[Event]:
        """Make the frames; what cannot be sent is settled."""
        events = []
        for index, row in enumerate(page.rows):
            if page.holds_back(index):
                continue
            try:
                topic = self._topic(row)
                frame = self._encoder.frame(row, target(self._options, topic), _TRANSACTION)
            except RecordRefusedError as error:
                page.fail(index, error)
                continue
            events.append(Event(index, topic, frame))
        return events

    def _topic(self, row: Row) -> str:
        if self._template.depends_on_event:
            return self._template.topic(to_envelope(row))
        kind = (row[TYPE], row[SOURCE], row[VERSION], row[TOPIC])
        topic = self._topics.get(kind)
        if topic is None:
            if len(self._topics) >= _KINDS:
                self._topics.clear()
            topic = self._topics[kind] = self._template.topic(to_envelope(row))
        return topic

    def _would_be_late(self, count: int, deadline: float) -> bool:
        """Tell whether a transaction would hardly be confirmed in time, and then come again."""
        return self._seconds * count * _SAFETY > deadline - time.monotonic()

    def _settle(self, page: Batch, events: list[Event], deadline: float) -> TransientError | None:
        """Settle at least the first of these events, or return what stops the batch."""
        try:
            self._store(events, deadline)
        except ErrorFrameError as error:
            self.close()
            return self._blame(page, events, error, deadline)
        except _TopicsRefusedError as refused:
            page.refuse(events, refused.topics)
            return None
        except TransientError as error:
            if isinstance(error, LateError):
                # Else a slow broker would store the same events again and again.
                self._window = max(1, len(events) // 2)
            self.close()
            return error
        page.stored(events)
        if len(events) == self._window:
            self._window = min(self._options.in_flight, self._window * 2)
        return None

    def _store(self, events: list[Event], deadline: float) -> None:
        """Store events in one transaction, and wait until the broker has them."""
        link = self._connected(deadline)
        self._make_queues(link, {event.topic for event in events}, deadline)
        begin = encode("BEGIN", [("transaction", _TRANSACTION.decode())])
        commit = encode("COMMIT", [("transaction", _TRANSACTION.decode()), ("receipt", "commit")])
        began_at = time.monotonic()
        link.send(b"".join([begin, *(event.frame for event in events), commit]), deadline)
        link.await_receipt("commit", deadline)
        self._seconds = (time.monotonic() - began_at) / len(events)

    def _blame(
        self, page: Batch, events: list[Event], error: ErrorFrameError, deadline: float
    ) -> TransientError | None:
        """Find out what of a transaction the broker refused; nothing of it was stored."""
        if error.is_full:
            return BrokerUnavailableError(f"the broker has no room: {error.text}")
        if not error.is_about_a_frame:
            return self._ask_for_rights(page, events, error, deadline)
        if len(events) > 1:
            return self._settle(page, events[: len(events) // 2], deadline)
        page.fail(
            events[0].index,
            RecordRefusedError(
                f"the broker refuses the event, {len(events[0].frame)} bytes in all; set"
                f" max_message_bytes to what it takes ({error.text})"
            ),
        )
        return None

    def _ask_for_rights(
        self, page: Batch, events: list[Event], error: ErrorFrameError, deadline: float
    ) -> TransientError | None:
        """Send one event for each topic in a transaction that is taken back."""
        firsts = {event.topic: event for event in reversed(events)}
        try:
            link = self._connected(deadline)
            refused = self._refused(link, list(firsts.values()), deadline)
        except TransientError as failed:
            self.close()
            return failed
        self.close()
        if not refused:
            return BrokerUnavailableError(f"the broker took nothing: {error.text}")
        page.refuse(events, refused)
        return None

    def _refused(
        self, link: Link, events: list[Event], deadline: float
    ) -> Mapping[str, TransientError]:
        transaction = ("transaction", _TRANSACTION.decode())
        asked = [encode("BEGIN", [transaction])]
        for number, event in enumerate(events):
            asked.append(event.frame.replace(b"\n", b"\nreceipt:%d\n" % number, 1))
        asked.append(encode("ABORT", [transaction, ("receipt", "abort")]))
        answers = _answers(link, asked, "abort", deadline)
        return {
            event.topic: DestinationRefusedError(
                f"{link.address} does not take events for {target(self._options, event.topic)!r};"
                f" grant the user of routes.{self._route}.username the right to write there"
                f" ({answers[str(number)]})"
            )
            for number, event in enumerate(events)
            if str(number) in answers
        }

    def _connected(self, deadline: float) -> Link:
        if self._link is None:
            self._ready.clear()
            self._link = self._dialler.connect(deadline)
        return self._link

    def _make_queues(self, link: Link, topics: Iterable[str], deadline: float) -> None:
        """Make sure that each group has a queue: the broker keeps nothing for one that has none.

        A queue is made by subscribing to it; a kill of the broker may have taken an empty one.
        """
        new = sorted(set(topics) - self._ready)
        queues = [
            (topic, source(self._options, group, topic))
            for topic in new
            for group in self._options.groups
        ]
        if queues:
            asked = []
            for number, (_, queue) in enumerate(queues):
                made = [("id", f"q{number}"), ("destination", queue), ("selector", _NOBODY)]
                asked.append(encode("SUBSCRIBE", [*made, ("receipt", str(number))]))
                asked.append(encode("UNSUBSCRIBE", [("id", f"q{number}")]))
            asked.append(encode("BEGIN", [("transaction", "end"), ("receipt", "begun")]))
            asked.append(encode("ABORT", [("transaction", "end"), ("receipt", "end")]))
            answers = _answers(link, asked, "end", deadline)
            refused = {
                topic: DestinationRefusedError(
                    f"{link.address} does not let the queue {queue!r} be made; grant the user of"
                    f" routes.{self._route}.username the rights to read and to make it"
                    f" ({answers[str(number)]})"
                )
                for number, (topic, queue) in enumerate(queues)
                if str(number) in answers
            }
            if refused:
                self.close()
                raise _TopicsRefusedError(refused)
        self._ready.update(new)


class _TopicsRefusedError(Exception):
    """The broker does not take events of these topics."""

    def __init__(self, topics: Mapping[str, TransientError]) -> None:
        super().__init__(", ".join(topics))
        self.topics = topics


def _answers(link: Link, asked: list[bytes], last: str, deadline: float) -> dict[str, str]:
    """Ask for several things; return why some were refused, by their receipt."""
    link.send(b"".join(asked), deadline)
    refused: dict[str, str] = {}
    while True:
        try:
            link.await_receipt(last, deadline)
        except ErrorFrameError as error:
            if error.receipt == last:
                return refused
            if error.receipt is not None:
                refused.setdefault(error.receipt, error.text)
            continue
        return refused


def _window(events: list[Event], count: int) -> list[Event]:
    size = 0
    for number, event in enumerate(events[:count]):
        size += len(event.frame)
        if size > _WINDOW_BYTES and number:
            return events[:number]
    return events[:count]
