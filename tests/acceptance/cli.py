"""The program as its user has it: a process, with a terminal or without."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from typing import TYPE_CHECKING
from unittest.mock import patch

import sqlalchemy as sa

from outbox.cli.app import run
from outbox.dead_letter import Failure, Stage, record
from outbox.envelope import Envelope, new_id
from outbox.table import outbox_event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass
class Program:
    """`outbox` in a folder of the test's own, with no settings but those given."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    seconds: float = 60.0
    """How long `run` waits for it."""

    def run(
        self,
        *arguments: str,
        module: str = "outbox",
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run it without a terminal."""
        return subprocess.run(
            command(arguments, module),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env=self._environment(environment),
            timeout=self.seconds,
            check=False,
        )

    def call(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it in this process, which is quicker; not for what configures logs or signals."""
        with (
            chdir(self.folder),
            patch.object(sys, "path", [*sys.path]),
            patch.dict(os.environ, self._environment(environment), clear=True),
            redirect_stdout(StringIO()) as stdout,
            redirect_stderr(StringIO()) as stderr,
        ):
            code = run(list(arguments))
        return subprocess.CompletedProcess([*arguments], code, stdout.getvalue(), stderr.getvalue())

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start it without a terminal, to signal it and to read what it prints."""
        return subprocess.Popen(
            command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self._environment(environment),
        )

    def on_terminal(self, *arguments: str, typed: str = "", **environment: str) -> tuple[int, str]:
        """Run it on a terminal of 80 columns; return its exit code and all that it showed."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            command(arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=self.folder,
            env=self._environment({"TERM": "xterm", "COLUMNS": "80", **environment}),
        ) as process:
            os.close(theirs)
            os.write(ours, typed.encode())
            shown = _read_all(ours)
            return process.wait(self.seconds), shown.decode()

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "OUTBOX" not in name}
        return kept | self.environment | dict(extra)


@contextmanager
def killed(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Kill what a test that failed would wait for."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def insert(url: str, count: int = 1, **columns: object) -> list[int]:
    """Commit events as a producer in plain SQL does; return their sequences."""
    row = {"type": "shop.order.placed", "partition_key": "c-1", "data": b'{"order_id": "o-1"}'}
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    statement = sa.insert(outbox_event).returning(outbox_event.c.seq)
    with engine.begin() as connection:
        return list(connection.scalars(statement, [row | columns] * count))


def set_aside(url: str, *failures: Failure, consumer: str | None = None) -> None:
    """Record dead letters, of the route `kafka` or of a consumer."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    stage: Stage = "relay" if consumer is None else "consumer"
    with engine.begin() as connection:
        record(connection, stage, consumer or "kafka", failures)


def envelope(key: str = "c-1", data: bytes = b'{"order_id": "o-1"}', **headers: str) -> Envelope:
    return Envelope(
        id=new_id(),
        source="/shop",
        type="shop.order.placed",
        time=datetime(2026, 5, 1, 12, tzinfo=UTC),
        data=data,
        partition_key=key,
        headers=headers,
    )


def command(arguments: tuple[str, ...], module: str = "outbox") -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _read_all(descriptor: int) -> bytes:
    shown = b""
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            chunk = b""
        if not chunk:
            os.close(descriptor)
            return shown
        shown += chunk
