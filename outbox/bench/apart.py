"""Runs a measurement in a process apart, so that whoever clears up can always end it.

An interruption that is raised inside a library, between two of its statements, can leave it in a
state that it never gets out of. So the process that hears of it does nothing but wait.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
from typing import TYPE_CHECKING, Any

from outbox.bench.place import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from multiprocessing.connection import Connection

    from outbox.bench.report import Series


def measured(measure: Callable[[], Iterable[Series]]) -> list[Series]:
    """Return all series, or raise what the measurement raised; it is killed when this is left.

    Forks, so the caller must not have started a thread.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(measure, theirs))
    process.start()
    theirs.close()
    try:
        found: Any = ours.recv()
    except EOFError as exc:
        process.join()
        raise BenchError(f"the measuring process ended with {process.exitcode}") from exc
    finally:
        process.kill()
        process.join()
        ours.close()
    if isinstance(found, BaseException):
        raise found
    series: list[Series] = found
    return series


def _run(measure: Callable[[], Iterable[Series]], result: Connection) -> None:
    # A session of its own: Ctrl-C is for the one who waits.
    os.setsid()
    try:
        found: Any = list(measure())
    except Exception as exc:  # noqa: BLE001  # raised again where it is told
        found = exc
    try:
        result.send(found)
    except (pickle.PicklingError, TypeError, AttributeError):
        result.send(BenchError(f"{type(found).__name__}: {found}"))
    # What the measurement has left open is nobody's concern any more.
    os._exit(0)
