"""Files that commands write."""

from __future__ import annotations

from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from outbox.cli.errors import FailedError
from outbox.files import replacement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def open_whole(path: Path) -> Iterator[IO[str]]:
    """Open a file that is there as a whole or not at all, once the block ends.

    See `outbox.files.replacement` for what is no file. Raises `FailedError` where it cannot be
    written.
    """
    try:
        with (
            replacement(path) as begun,
            begun.open("w", encoding="utf-8", newline="") as stream,
        ):
            yield stream
    except OSError as exc:
        raise FailedError(f"cannot write {path}: {exc.strerror}") from exc


def write_whole(path: Path, text: str) -> None:
    """Write a file as a whole or not at all; raises as `open_whole`."""
    with open_whole(path) as stream:
        stream.write(text)
