"""The outcomes of one batch while it is being settled: what failed holds its key back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.errors import HeldBackError, PermanentError, TransientError
from outbox.rows import KEY, Rows
from outbox.transport import PUBLISHED, Dead, Outcome, Retry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from outbox.envelope import Envelope


class Page:
    """Outcomes by the event's index in the batch; pure."""

    def __init__(self, batch: Sequence[Envelope]) -> None:
        self.rows = Rows.of(batch).rows
        self._published_count = 0
        self._failed: dict[int, Outcome] = {}
        self.first_failures: dict[bytes, int] = {}
        """The first event of each key that has failed so far."""

    @property
    def failed_count(self) -> int:
        """Events that have failed so far, those included that another one holds back."""
        return len(self._failed)

    def is_settled(self, index: int) -> bool:
        """Whether an event has failed, so that it is not to be sent."""
        return index in self._failed

    def published(self, count: int) -> None:
        """Settle so many events that have not failed: the broker has confirmed them."""
        self._published_count += count

    def retry(self, indexes: Iterable[int], error: TransientError) -> None:
        """Settle some for now: they have to be published again."""
        outcome = Retry(error)
        for index in indexes:
            self._fail(index, outcome)

    def fail(self, index: int, error: PermanentError | TransientError) -> None:
        """Settle one: it can never be stored, or not now."""
        self._fail(index, Dead(error) if isinstance(error, PermanentError) else Retry(error))

    def holds_back(self, index: int) -> bool:
        """Settle an event if an earlier one of its key failed; say whether it is so.

        Failures are not found in order, and a later one must not stop an earlier event: both
        would then wait for each other, at each attempt again.
        """
        key = self.rows[index][KEY]
        if key is None or index <= self.first_failures.get(key, index):
            return False
        self._failed[index] = _held(key)
        return True

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes as they were settled."""
        if self._published_count + len(self._failed) != len(self.rows):
            raise AssertionError("an event was left without an outcome, or has two")
        outcomes: list[Outcome] = [PUBLISHED] * len(self.rows)
        for index, outcome in self._failed.items():
            outcomes[index] = outcome
        return outcomes

    def fenced_outcomes(self) -> list[Outcome]:
        """Return the outcomes; behind a failure, all of its key is to be tried again.

        Events that are sent one by one need it: a later one may have been stored although an
        earlier one was not.
        """
        settled = self.outcomes()
        if not self.first_failures:
            return settled
        failed: set[bytes] = set()
        outcomes: list[Outcome] = []
        for row, outcome in zip(self.rows, settled, strict=True):
            key = row[KEY]
            if key is None or isinstance(outcome, Retry) or key not in failed:
                outcomes.append(outcome)
            else:
                outcomes.append(_held(key))
            if key is not None and outcome is not PUBLISHED:
                failed.add(key)
        return outcomes

    def _fail(self, index: int, outcome: Outcome) -> None:
        self._failed[index] = outcome
        key = self.rows[index][KEY]
        if key is not None:
            self.first_failures[key] = min(index, self.first_failures.get(key, index))


def _held(key: bytes) -> Retry:
    return Retry(HeldBackError(f"an earlier event of the key {key.decode()!r} was not published"))
