"""A transport that outlives processes: a file with one line for each published event.

A line is `writer key id`. One `publish` is one write to a file that is opened for appending.
A reader may see part of such a write, and a process that is killed in it leaves no more than
that; so a line begins and ends with a line break, and `published` takes whole lines only.
An event whose type ends in `.poison` is dead.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel

from outbox.errors import HeldBackError, RecordRefusedError
from outbox.transport import PUBLISHED, Dead, Outcome, Retry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope

# With the length of an id, so that what a killed process left of a line is not taken for one.
_LINE = re.compile(r"^(\d+) (\S+) ([0-9a-f-]{36})$", re.MULTILINE)


class Line(NamedTuple):
    writer: int
    """The process that published it."""
    key: str
    id: str


def published(path: Path) -> list[Line]:
    """Return what arrived, in order; nothing while there is no file."""
    return lines(path.read_text()) if path.exists() else []


def lines(text: str) -> list[Line]:
    """Return the whole lines of what was read of a file."""
    return [Line(int(writer), key, id_) for writer, key, id_ in _LINE.findall(text)]


class Options(BaseModel):
    path: Path
    pause_seconds: float = 0.0
    """What one publish takes."""


class AppendPublisher:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._file = os.open(options.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def publish(self, batch: Sequence[Envelope], /) -> Sequence[Outcome]:
        # Not time.sleep, which fails in a process whose clock libfaketime sets.
        threading.Event().wait(self._options.pause_seconds)
        dead: set[str | None] = set()
        outcomes: list[Outcome] = []
        written: list[str] = []
        for envelope in batch:
            key = envelope.partition_key
            if key is not None and key in dead:
                outcomes.append(Retry(HeldBackError("behind a dead one")))
            elif envelope.type.endswith(".poison"):
                dead.add(key)
                outcomes.append(Dead(RecordRefusedError("poison")))
            else:
                outcomes.append(PUBLISHED)
                written.append(f"\n{os.getpid()} {key} {envelope.id}\n")
        os.write(self._file, "".join(written).encode())
        return outcomes

    def close(self) -> None:
        os.close(self._file)


def publisher(route: str, options: Options, timeout: float) -> AppendPublisher:
    return AppendPublisher(options)
