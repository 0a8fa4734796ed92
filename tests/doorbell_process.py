"""An application with a doorbell: `python -m tests.doorbell_process URL`.

Does what each line of its input says: `emit` commits an event, `fork` goes on in a child process
until that ends. At the end of its input it ends, as applications do: without closing anything.
"""

from __future__ import annotations

import os
import sys

import sqlalchemy as sa

import outbox
from tests.emitting import emit


def main(url: str) -> None:
    engine = sa.create_engine(url)
    doorbell = outbox.Doorbell(engine)
    while line := sys.stdin.readline():
        match line.strip():
            case "emit":
                with engine.begin() as connection:
                    emit(connection, "a")
            case "fork":
                if child := os.fork():
                    os.waitpid(child, 0)
                else:
                    engine.dispose(close=False)
            case other:
                raise ValueError(other)
    del doorbell


if __name__ == "__main__":
    main(*sys.argv[1:])
