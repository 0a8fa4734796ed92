"""Small files: checkpoints, seals and keys, whatever else their names may lead to."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

LIMIT: Final = 64 * 1024
"""Many times the bytes that any of them has."""


def read_small(path: Path) -> bytes:
    """Read a file; raises `OSError` where that fails, or where it has more than 64 KiB."""
    with path.open("rb") as file:
        text = file.read(LIMIT + 1)
    if len(text) > LIMIT:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return text
