"""Pages that are published together have the positions of the pages that they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from outbox.testing import envelope
from relay.group import group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope


@dataclass(frozen=True)
class Page:
    """A page whose positions tell how many events of the whole history are settled."""

    first: int
    envelopes: Sequence[Envelope]
    is_last: bool = False

    def position(self, count: int | None = None, /) -> Any:
        return self.first + (len(self.envelopes) if count is None else count)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_a_group_is_all_its_pages_in_order(sizes: list[int]) -> None:
    events = [envelope("t", data=b"%d" % number) for number in range(sum(sizes))]
    firsts = [sum(sizes[:place]) for place in range(len(sizes))]
    pages = [
        Page(first, events[first : first + size]) for first, size in zip(firsts, sizes, strict=True)
    ]
    made: Any = group(pages)
    assert list(made.events) == events
    assert made.position() == len(events)
    assert [made.position(count) for count in range(len(events) + 1)] == list(
        range(len(events) + 1)
    )
