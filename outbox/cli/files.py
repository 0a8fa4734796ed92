"""Files that commands write."""

from __future__ import annotations

from pathlib import Path

from outbox.cli.errors import FailedError
from outbox.files import draft


def write_whole(path: Path, text: str) -> None:
    """Write a file as a whole or not at all; raises `FailedError` where it cannot be written."""
    try:
        with draft(path) as begun:
            begun.write_text(text, encoding="utf-8")
            begun.replace(path)
    except OSError as exc:
        raise FailedError(f"cannot write {path}: {exc.strerror}") from exc
