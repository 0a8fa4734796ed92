"""A wrong time of day for a process, by Debian's `faketime`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tools.servers.process import ServerAbsentError

_LIBRARIES: Final = "*/faketime/libfaketime.so.1"


def find_faketime() -> Path:
    """Return the library to be loaded before all others; raise `ServerAbsentError` if absent."""
    found = sorted(Path("/usr/lib").glob(_LIBRARIES))
    if not found:
        raise ServerAbsentError(
            f"libfaketime is not in /usr/lib/{_LIBRARIES}; install it"
            " (on Debian: apt-get install faketime)"
        )
    return found[0]


def wrong_clock(offset: str) -> dict[str, str]:
    """Return the environment in which a process sees another time of day, for instance `+1d`.

    Clocks that only go forward, by which time-outs are measured, stay as they are.
    """
    return {"LD_PRELOAD": str(find_faketime()), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}
