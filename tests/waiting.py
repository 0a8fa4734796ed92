"""Waiting for what becomes true by itself: in another thread, another process, or a server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Found = TypeVar("Found")

SECONDS: Final = 60.0
"""Longer than anything takes on a busy machine, so only what never comes takes so long."""
PAUSE_SECONDS: Final = 0.005


def eventually(
    fact: Callable[[], Found], seconds: float = SECONDS, why: Callable[[], object] | None = None
) -> Found:
    """Ask again and again until the answer is true, and return it; fail with the last one.

    `why` is asked in that case only: what a failure needs to be understood.
    """
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        if time.monotonic() > deadline:
            told = f": {why()}" if why else ""
            raise AssertionError(f"it did not become true in {seconds:g} s, but {found!r}{told}")
        time.sleep(PAUSE_SECONDS)
    return found
