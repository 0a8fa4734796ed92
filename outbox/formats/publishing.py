"""A publisher that converts what it is given, and hands it to the one that it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from outbox.errors import HeldBackError, PermanentError, TransientError
from outbox.rows import KEY, Rows
from outbox.transport import PUBLISHED, Dead, Retry, TransactionalPublisher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outbox.envelope import Envelope
    from outbox.formats.convert import Converter, Error
    from outbox.transport import Outcome, Publisher

_HELD: Final = "an earlier event of its key was not published"


def wrap(publisher: Publisher, converter: Converter) -> Publisher:
    """Let a publisher convert; it has the same guarantee."""
    if isinstance(publisher, TransactionalPublisher):
        return TransactionalConvertingPublisher(publisher, converter)
    return ConvertingPublisher(publisher, converter)


class ConvertingPublisher:
    """See `Publisher`; what cannot be converted is not published, and holds back its key."""

    def __init__(self, publisher: Publisher, converter: Converter) -> None:
        self._publisher = publisher
        self._converter = converter

    def publish(self, batch: Sequence[Envelope], /) -> Sequence[Outcome]:
        """See `Publisher.publish`."""
        events = Rows.of(batch)
        converted, errors = self._converter.convert(events)
        if not errors:
            return self._publisher.publish(converted)
        chosen = _unhindered(events, errors)
        outcomes = self._publisher.publish(converted.pick(chosen)) if chosen else []
        return fenced(events, errors, dict(zip(chosen, outcomes, strict=True)))

    def close(self) -> None:
        """See `Publisher.close`."""
        self._publisher.close()
        self._converter.close()


class TransactionalConvertingPublisher(ConvertingPublisher):
    """See `TransactionalPublisher`: where one cannot be converted, none is published."""

    def __init__(self, publisher: TransactionalPublisher, converter: Converter) -> None:
        super().__init__(publisher, converter)
        self._transactional = publisher

    def take_over(self, identity: str, /) -> bytes | None:
        """See `TransactionalPublisher.take_over`."""
        return self._transactional.take_over(identity)

    def publish_with(self, batch: Sequence[Envelope], progress: bytes, /) -> Sequence[Outcome]:
        """See `TransactionalPublisher.publish_with`."""
        events = Rows.of(batch)
        converted, errors = self._converter.convert(events)
        if not errors:
            return self._transactional.publish_with(converted, progress)
        held = Retry(HeldBackError("another event of its transaction could not be converted"))
        others = {index: held for index in range(len(events)) if index not in errors}
        return fenced(events, errors, others)


def _unhindered(events: Rows, errors: Mapping[int, Error]) -> list[int]:
    """Return the places of the events that may be published: no earlier one of their key fails."""
    held: set[bytes] = set()
    chosen = []
    for index, key in enumerate(events.keys()):
        if index in errors:
            if key is not None:
                held.add(key)
        elif key not in held:
            chosen.append(index)
    return chosen


def fenced(
    events: Rows, errors: Mapping[int, Error], outcomes: Mapping[int, Outcome]
) -> list[Outcome]:
    """Return the outcomes of a batch: behind one of a key that failed, all are to be tried again.

    `outcomes` has those of the events without an error that were published, or tried.
    """
    failed: set[bytes] = set()
    found: list[Outcome] = []
    for index, row in enumerate(events.rows):
        key, error = row[KEY], errors.get(index)
        outcome = outcomes.get(index, _held())
        if isinstance(error, TransientError):
            outcome = Retry(error)
        elif isinstance(error, PermanentError):
            outcome = _held() if key in failed else Dead(error)
        found.append(outcome)
        if key is not None and outcome != PUBLISHED:
            failed.add(key)
    return found


def _held() -> Retry:
    return Retry(HeldBackError(_HELD))
