"""Files that are written as a whole or not at all."""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Yield a name beside a path to write to, and then to rename or link; nothing stays of it."""
    # Not by the process id, which two containers that share a folder may have in common.
    begun = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield begun
    finally:
        begun.unlink(missing_ok=True)
