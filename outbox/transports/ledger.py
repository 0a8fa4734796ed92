"""What a subscriber has handed out and not yet heard about, by partition."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

P = TypeVar("P", bound="Hashable")


class Ledger(Generic[P]):
    """Unsettled offsets of each partition, in the order in which they were received.

    Offsets may have gaps. An offset that is not unsettled, because it was settled before or its
    partition was lost, is ignored.
    """

    def __init__(self) -> None:
        self._unsettled: defaultdict[P, deque[int]] = defaultdict(deque)
        self._acked: dict[P, set[int]] = {}

    def deliver(self, partition: P, offset: int) -> None:
        """Note that an offset was handed out."""
        self._unsettled[partition].append(offset)

    def ack(self, partition: P, offsets: Sequence[int]) -> int | None:
        """Settle offsets; return the offset to commit, or None where none can be yet.

        It is the one behind the settled ones that nothing unsettled precedes.
        """
        unsettled = self._unsettled.get(partition)
        if not unsettled:
            return None
        acked = self._acked.setdefault(partition, set())
        acked.update(offsets)
        last = None
        while unsettled and unsettled[0] in acked:
            last = unsettled.popleft()
            acked.discard(last)
        # What is left of earlier rounds lies below the first unsettled one.
        acked.intersection_update(unsettled)
        return None if last is None else last + 1

    def nack(self, partition: P, offset: int) -> bool:
        """Forget an offset and all that followed it; False where it is not unsettled."""
        unsettled = self._unsettled.get(partition)
        if not unsettled or offset not in unsettled:
            return False
        while unsettled.pop() != offset:
            pass
        self._acked.get(partition, set()).intersection_update(unsettled)
        return True

    def forget(self, partition: P) -> int:
        """Forget a partition that was lost; return how many of its offsets were unsettled."""
        self._acked.pop(partition, None)
        return len(self._unsettled.pop(partition, ()))

    def is_clear(self, partition: P) -> bool:
        """Whether everything of a partition is settled."""
        return not self._unsettled.get(partition)
