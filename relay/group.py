"""Pages that are published together: what waits is one batch, so that a slow broker gets fewer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from outbox.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.capture import Page, Position


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive pages, at least one."""

    pages: Sequence[Page]
    events: Rows
    """Those of all pages, in order."""

    def position(self, count: int | None = None, /) -> Position:
        """Return the position once the first `count` events are settled, by default all."""
        if count is None:
            return self.pages[-1].position()
        left = count
        for page in self.pages[:-1]:
            if left < len(page.envelopes):
                return page.position(left)
            left -= len(page.envelopes)
        return self.pages[-1].position(left)


def group(pages: Sequence[Page]) -> Group:
    """Put pages together."""
    if len(pages) == 1:
        return Group(pages, Rows.of(pages[0].envelopes))
    return Group(pages, Rows([row for page in pages for row in Rows.of(page.envelopes).rows]))
