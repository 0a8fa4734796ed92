"""How threads wait for each other: by one lock, and by a strategy, which is sleep or haste."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class WaitStrategy(Protocol):
    """How a thread waits for others: what it costs, against how soon it goes on."""

    def wait(
        self, changed: threading.Condition, is_over: Callable[[], bool], timeout: float | None
    ) -> bool:
        """Return `is_over()`, as soon as it is true, or after `timeout` seconds (None: never).

        `changed` is held when it is called and when it returns, and notified of every change.
        """
        ...


class Block:
    """Sleep until woken: no processor time, some ten microseconds to wake up. The default."""

    def wait(
        self, changed: threading.Condition, is_over: Callable[[], bool], timeout: float | None
    ) -> bool:
        """See `WaitStrategy.wait`."""
        return changed.wait_for(is_over, timeout)


class Yield:
    """Look again and again, and let other threads run in between: a core, for the least delay."""

    def wait(
        self, changed: threading.Condition, is_over: Callable[[], bool], timeout: float | None
    ) -> bool:
        """See `WaitStrategy.wait`."""
        return _look(changed, is_over, timeout, lambda: time.sleep(0))


class Spin:
    """Look again and again: only where each thread has a core, and Python no global lock.

    Elsewhere whoever is waited for gets no more than every second turn of the interpreter, of
    `sys.getswitchinterval()` each.
    """

    def wait(
        self, changed: threading.Condition, is_over: Callable[[], bool], timeout: float | None
    ) -> bool:
        """See `WaitStrategy.wait`."""
        return _look(changed, is_over, timeout, lambda: None)


STRATEGIES: Final[Mapping[str, Callable[[], WaitStrategy]]] = {
    "block": Block,
    "yield": Yield,
    "spin": Spin,
}


class Signal:
    """One lock for all that may change together, and who waits for a change.

    with signal.lock:
        signal.wait(lambda: things, timeout=1.0)

    with signal.lock:
        things.append(1)
        signal.notify()
    """

    def __init__(self, strategy: WaitStrategy | None = None) -> None:
        self.lock: Final = threading.Lock()
        """To be held for everything else."""
        self.waiting_count = 0
        """How many wait: where it is none, there is nobody to be notified."""
        self._strategy = strategy or Block()
        self._changed = threading.Condition(self.lock)

    def wait(self, is_over: Callable[[], bool], timeout: float | None) -> bool:
        """Return `is_over()`, as soon as it is true, or after `timeout` seconds (None: never)."""
        if is_over():
            return True
        self.waiting_count += 1
        try:
            return self._strategy.wait(self._changed, is_over, timeout)
        finally:
            self.waiting_count -= 1

    def notify(self) -> None:
        """Let everybody who waits look again."""
        if self.waiting_count:
            self._changed.notify_all()


def _look(
    changed: threading.Condition,
    is_over: Callable[[], bool],
    timeout: float | None,
    rest: Callable[[], None],
) -> bool:
    deadline = None if timeout is None else time.monotonic() + timeout
    while not is_over():
        if deadline is not None and time.monotonic() >= deadline:
            return False
        changed.release()
        try:
            rest()
        finally:
            changed.acquire()
    return True
