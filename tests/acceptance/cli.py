"""The program as its user has it: a process, with a terminal or without."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECONDS = 60


@dataclass
class Program:
    """`outbox` in a folder of the test's own, with no settings but those given."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it without a terminal."""
        return subprocess.run(
            command(arguments),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            env=self._environment(environment),
            timeout=SECONDS,
            check=False,
        )

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
            return process.wait(SECONDS), shown.decode()

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "OUTBOX" not in name}
        return kept | self.environment | dict(extra)


def command(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "outbox", *arguments]


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
