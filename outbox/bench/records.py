"""What arrived at the broker: counted, and timed. Both read committed records alone."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from confluent_kafka import Consumer, KafkaError, TopicPartition

from outbox.bench.place import BenchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from confluent_kafka import Message

_log = logging.getLogger(__name__)

BEGINNING: Final = 0
AT_ONCE: Final = 10_000
QUIET_SECONDS: Final = 30.0
"""How long a broker may take for the next record."""
HOLD_SECONDS: Final = 0.1
"""The longest time inside the driver, where Ctrl-C is not seen."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a topic holds."""

    count: int
    rows_per_second: float
    """Once warm: of all after the first tenth, by the broker's clock; 0 if that took no time."""


def count(
    kafka: Mapping[str, str], topic: str, partitions: int, expected: int, *, by_key: bool = False
) -> Arrived:
    """Count the records of a topic by reading them, because offsets count control records too.

    It reads to the end, and where that is too early, on until as many as expected are there: what
    ends a transaction is written to its partitions after the producer has heard that it is
    committed. Raises `BenchError` where a record came before an earlier one of its key; that is
    looked at only if asked for, because it takes three times as long.
    """
    consumer = _consumer(kafka, topic, partitions, **{"enable.partition.eof": "true"})
    by_time: Counter[int] = Counter()
    last: dict[bytes, int] = {}
    at_end: set[int | None] = set()
    deadline = time.monotonic() + QUIET_SECONDS
    try:
        while len(at_end) < partitions or by_time.total() < expected:
            messages = consumer.consume(AT_ONCE, HOLD_SECONDS)
            ends = [message for message in messages if not _is_record(message)]
            records = [each for each in messages if each.error() is None] if ends else messages
            if at_end:
                at_end -= {record.partition() for record in records}
            at_end |= {end.partition() for end in ends}
            if records:
                deadline = time.monotonic() + QUIET_SECONDS
                by_time.update(record.timestamp()[1] for record in records)
            elif time.monotonic() > deadline:
                break
            if by_key:
                _require_order(records, last)
    finally:
        consumer.close()
    if len(at_end) < partitions:
        raise BenchError(f"the broker stopped to answer while {topic} was counted")
    return Arrived(by_time.total(), warm_rate(by_time))


def _require_order(records: Sequence[Message], last: dict[bytes, int]) -> None:
    """Compare each record with the last one of its key, and remember it."""
    for record in records:
        key, number = bytes(record.key() or b""), int(_header(record, "ce_sequence"))
        if number <= last.get(key, 0):
            raise BenchError(
                f"event {number} arrived after event {last[key]} of its key: this is a bug"
            )
        last[key] = number


def warm_rate(by_time: Mapping[int, int]) -> float:
    """Return records a second after the first tenth, of counts by millisecond."""
    total = sum(by_time.values())
    times = sorted(by_time)
    seen = 0
    for moment in times:
        seen += by_time[moment]
        if seen * 10 >= total:
            seconds = (times[-1] - moment) / 1000
            return (total - seen) / seconds if seconds else 0.0
    return 0.0


class Arrivals:
    """Notes when each record becomes readable, on a thread of its own while a block lasts."""

    def __init__(self, kafka: Mapping[str, str], topic: str, partitions: int) -> None:
        """Read a topic from its beginning; connects when the block begins."""
        self._consumer = _consumer(kafka, topic, partitions)
        self._thread = threading.Thread(target=self._read, name="arrivals", daemon=True)
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._seen: dict[str, int] = {}
        self._error: KafkaError | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def wait_for_any(self, seconds: float) -> bool:
        """Wait until a first record was readable, but not longer; say whether one was."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or bool(self._seen), seconds)
            return bool(self._seen)

    def wait(self, ids: Mapping[str, Any], seconds: float) -> Mapping[str, int]:
        """Return when each of these events was readable, in nanoseconds of the monotonic clock.

        Raises `BenchError` where one does not come in time.
        """
        with self._changed:
            arrived = self._changed.wait_for(
                lambda: self._error is not None or ids.keys() <= self._seen.keys(), seconds
            )
            if self._error is not None:
                raise BenchError(f"reading back from the broker failed: {self._error.str()}")
            if not arrived:
                missing = len(ids.keys() - self._seen.keys())
                raise BenchError(f"{missing} of {len(ids)} events did not arrive in {seconds:g} s")
            return {each: self._seen[each] for each in ids}

    def _read(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(HOLD_SECONDS)
            now = time.monotonic_ns()
            if message is None:
                continue
            error = message.error()
            with self._changed:
                if error is None:
                    self._seen.setdefault(_header(message, "ce_id"), now)
                else:
                    self._error = error
                self._changed.notify_all()


def _consumer(kafka: Mapping[str, str], topic: str, partitions: int, **own: str) -> Consumer:
    consumer = Consumer(
        {
            **kafka,
            "group.id": topic,  # asked for by the driver; none is joined, and nothing committed
            "enable.auto.commit": "false",
            "isolation.level": "read_committed",
            **own,
        },
        logger=_log,
    )
    consumer.assign([TopicPartition(topic, number, BEGINNING) for number in range(partitions)])
    return consumer


def _is_record(message: Message) -> bool:
    error = message.error()
    if error is None:
        return True
    if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  # librdkafka's own name
        return False
    raise BenchError(f"reading back from the broker failed: {error.str()}")


def _header(message: Message, name: str) -> str:
    headers: Mapping[str, Any] = dict(message.headers() or [])
    found: bytes = headers[name]
    return found.decode()
