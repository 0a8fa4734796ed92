"""Workers as threads of a relay's process, where a broker in memory has both its sides."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from outbox.worker import Worker


class Workers:
    """Runs workers while a block lasts, each in a thread of its own."""

    def __init__(self, workers: Mapping[str, Worker], on_failure: Callable[[], object]) -> None:
        """Take workers by their consumers' names; `on_failure` is called when one cannot go on."""
        self._stop = threading.Event()
        self._on_failure = on_failure
        self._error: Exception | None = None
        self._threads = [
            threading.Thread(target=self._run, args=[worker], name=f"worker-{name}")
            for name, worker in workers.items()
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let each finish its batch; raises why one could not go on, unless the block raised."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if error is None and self._error is not None:
            raise self._error

    def _run(self, worker: Worker) -> None:
        try:
            worker.run(self._stop)
        except Exception as exc:  # noqa: BLE001  # raised again by the thread that waits for it
            self._error = self._error or exc
            self._on_failure()
