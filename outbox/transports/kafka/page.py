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
    """One envelope as Kafka takes it."""

    place: int
    """The envelope's index in the batch."""
    topic: str
    key: bytes | None
    data: bytes
    headers: list[tuple[str, bytes]]


class Page:
    """Outcomes by the envelope's index in the batch; pure."""

    def __init__(self, batch: Sequence[Envelope]) -> None:
        self.batch = batch
        self._outcomes: list[Outcome | None] = [None] * len(batch)
        self._failed_keys: set[str] = set()

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
        """Settle an envelope if an earlier one of its key failed; say whether it is so."""
        key = self.batch[index].partition_key
        if key is None or key not in self._failed_keys:
            return False
        self._outcomes[index] = _held(key)
        return True

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes; behind a failure, nothing of its key counts as published."""
        failed: set[str] = set()
        outcomes: list[Outcome] = []
        for envelope, settled in zip(self.batch, self._outcomes, strict=True):
            outcome = settled
            if outcome is None:
                raise AssertionError("an envelope was left without an outcome")
            key = envelope.partition_key
            if key in self._failed_keys:
                if not isinstance(outcome, Published):
                    failed.add(key)
                elif key in failed:
                    outcome = _held(key)
            outcomes.append(outcome)
        return outcomes

    def _fail(self, index: int, outcome: Outcome) -> None:
        self._outcomes[index] = outcome
        key = self.batch[index].partition_key
        if key is not None:
            self._failed_keys.add(key)


def _held(key: str) -> Retry:
    return Retry(HeldBackError(f"an earlier event of the key {key!r} was not published"))
