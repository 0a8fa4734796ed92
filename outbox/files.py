"""Files that are written as a whole or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Yield a name beside a path to write to, and then to rename or link; nothing stays of it."""
    begun = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield begun
    finally:
        begun.unlink(missing_ok=True)
