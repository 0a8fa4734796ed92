"""The outcomes of one batch while it is being settled: what failed holds its key back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from outbox.errors import HeldBackError
from outbox.transport import PUBLISHED, Dead, Outcome, Published, Retry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from outbox.envelope import Envelope
    from outbox.errors import PermanentError, TransientError


class Record(NamedTuple):
    """One envelope as Kafka takes it, without its headers: too many of them would be kept."""

    place: int
    """The envelope's index in the batch."""
    topic: str
    key: bytes | None
    data: bytes


class Page:
    """Outcomes by the envelope's index in the batch; pure."""

    def __init__(self, batch: Sequence[Envelope]) -> None:
        self.batch = batch
        self._outcomes: list[Outcome | None] = [None] * len(batch)
        self._first_failures: dict[str, int] = {}

    @property
    def has_failures(self) -> bool:
        """Whether any envelope with a key has failed so far."""
        return bool(self._first_failures)

    def published(self, records: Iterable[Record]) -> None:
        """Settle some: the broker has confirmed them."""
        for record in records:
            self._outcomes[record.place] = PUBLISHED

    def retry(self, indexes: Iterable[int], error: TransientError) -> None:
        """Settle some for now: they have to be published again."""
        outcome = Retry(error)
        for index in indexes:
            self._fail(index, outcome)

    def dead(self, index: int, error: PermanentError) -> None:
        """Settle one: it can never be stored."""
        self._fail(index, Dead(error))

    def holds_back(self, index: int) -> bool:
        """Settle an envelope if an earlier one of its key failed; say whether it is so.

        Failures are not found in order, and a later one must not stop an earlier envelope:
        both would then wait for each other, at each attempt again.
        """
        key = self.batch[index].partition_key
        if key is None or index <= self._first_failures.get(key, index):
            return False
        self._outcomes[index] = _held(key)
        return True

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes; behind a failure, all of its key is to be tried again."""
        outcomes = self._all()
        return self._fenced(outcomes) if self._first_failures else outcomes

    def _all(self) -> list[Outcome]:
        settled = [outcome for outcome in self._outcomes if outcome is not None]
        if len(settled) != len(self.batch):
            raise AssertionError("an envelope was left without an outcome")
        return settled

    def _fenced(self, settled: list[Outcome]) -> list[Outcome]:
        failed: set[str] = set()
        outcomes: list[Outcome] = []
        for envelope, outcome in zip(self.batch, settled, strict=True):
            key = envelope.partition_key
            if key is None or isinstance(outcome, Retry) or key not in failed:
                outcomes.append(outcome)
            else:
                outcomes.append(_held(key))
            if key is not None and not isinstance(outcome, Published):
                failed.add(key)
        return outcomes

    def _fail(self, index: int, outcome: Outcome) -> None:
        self._outcomes[index] = outcome
        key = self.batch[index].partition_key
        if key is not None:
            self._first_failures[key] = min(index, self._first_failures.get(key, index))


def _held(key: str) -> Retry:
    return Retry(HeldBackError(f"an earlier event of the key {key!r} was not published"))
