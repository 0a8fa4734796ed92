"""Files that commands write."""

from __future__ import annotations

import os
from pathlib import Path

from outbox.cli.errors import FailedError


def write_whole(path: Path, text: str) -> None:
    """Write a file as a whole or not at all; raises `FailedError` where it cannot be written."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as exc:
        raise FailedError(f"cannot write {path}: {exc.strerror}") from exc
    finally:
        draft.unlink(missing_ok=True)
