"""Files that are written as a whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Yield a name beside a path to write to, and then to rename or link; nothing stays of it."""
    # Not by the process id, which two containers that share a folder may have in common.
    begun = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield begun
    finally:
        begun.unlink(missing_ok=True)


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """Yield a name to write to; at the end what was written takes the place of `path` at once.

    A symbolic link stays one, and a file keeps its mode. What is no regular file, such as a pipe
    or a terminal, is written to as it is. Raises `OSError`.
    """
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        yield path
        return
    if mode is not None and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    place = Path(os.path.realpath(path))
    with draft(place) as begun:
        yield begun
        if mode is not None:
            begun.chmod(stat.S_IMODE(mode))
        begun.replace(place)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
