"""A transaction of a million rows that commits after others were delivered, by a real relay."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import sqlalchemy as sa

from tests import append_transport

if TYPE_CHECKING:
    from collections.abc import Iterator

MILLION: Final = 1_000_000
KEYS: Final = 1_000
CHUNK: Final = 100_000
OTHERS: Final = 50
"""Rows that others commit after each chunk."""
MOST_BYTES: Final = 250 << 20
INSERT: Final = sa.text("""
INSERT INTO outbox_event (id, type, partition_key, data)
SELECT CAST(lpad(to_hex(i), 32, '0') AS uuid), 'shop.order.placed', :key || i % :keys,
       convert_to(rpad('{"order_id":"' || i || '","pad":"', 198, 'x') || '"}', 'UTF8')
  FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS i
""")
"""An event's id is its number, so that the order can be read from what was published."""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_million_rows_that_commit_late_arrive_once_and_in_order_with_little_memory(
    postgres_engine: sa.Engine, tmp_path: Path
) -> None:
    published = Published(tmp_path / "published.txt")
    others = MILLION
    with relay(postgres_engine.url, published.path) as process:
        with postgres_engine.connect() as large:
            for first in range(1, MILLION, CHUNK):
                insert(large, "late", first, first + CHUNK - 1)
                with postgres_engine.begin() as other:
                    insert(other, "other", others + 1, others + OTHERS)
                others += OTHERS
                published.wait_for(others - MILLION, process)
            assert {number > MILLION for _, number in published.events} == {True}
            large.commit()
        published.wait_for(others, process, seconds=900)
        peak = peak_bytes(process.pid)
        process.terminate()
        assert process.wait(60) == 0
    numbers = [number for _, number in published.events]
    assert len(numbers) == len(set(numbers)), "each came once"
    assert set(numbers) == set(range(1, others + 1))
    last: dict[str, int] = {}
    for key, number in published.events:
        assert last.get(key, 0) < number, f"{key} is out of order"
        last[key] = number
    assert peak < MOST_BYTES


class Published:
    """What the relay has published, read on as the file grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[tuple[str, int]] = []
        """Key and number."""
        self._offset = 0

    def wait_for(self, count: int, process: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while len(self.events) < count:
            assert process.poll() is None, "the relay has ended"
            assert time.monotonic() < deadline, f"{len(self.events)} of {count} arrived"
            time.sleep(0.02)
            self._read()

    def _read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole, _, _ = file.read().rpartition(b"\n")
        if whole:
            self._offset += len(whole) + 1
            for line in append_transport.lines(whole.decode()):
                self.events.append((line.key, int(line.id.replace("-", ""), 16)))


def insert(connection: sa.Connection, key: str, first: int, last: int) -> None:
    values = {"key": key, "keys": KEYS, "first": first, "last": last}
    connection.execute(INSERT, values)


@contextmanager
def relay(url: sa.URL, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    routes = json.dumps({"file": {"transport": "append", "path": str(path)}})
    address = url.render_as_string(hide_password=False)
    process = subprocess.Popen([sys.executable, "-m", "tests.relay_process", address, routes])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
