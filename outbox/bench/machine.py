"""The machine that figures come from, the servers, and the versions of what took part."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlalchemy as sa

LIBRARIES: Final = ("outbox-relay", "sqlalchemy", "psycopg", "confluent-kafka", "pydantic")
SETTINGS: Final = ("server_version", "fsync", "synchronous_commit", "shared_buffers", "wal_level")


def machine() -> dict[str, Any]:
    """Return what this machine says of itself."""
    return {
        "cores": _cores(),
        "cpu": _cpu(),
        "architecture": platform.machine(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": _libraries(),
    }


def server(connection: sa.Connection) -> dict[str, str]:
    """Return the PostgreSQL server's version, and the settings that decide what a commit costs."""
    return {name: str(connection.exec_driver_sql(f"SHOW {name}").scalar_one()) for name in SETTINGS}


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()
