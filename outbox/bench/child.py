"""Runs a contender in a process of its own, so that none leaves its memory or its pace to another.

    with Child("drain_by_hand", {…}) as child:
        told = child.result()

The process is `python -m outbox.bench.child NAME`. It reads its arguments from standard input, so
that no password is in a list of processes, and ends when that closes: it never outlives its parent.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from outbox.bench.place import BenchError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

LOOK: Final = "look"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a process says of itself."""

    cpu_seconds: float
    statement_count: int | None
    """Statements that it sent to the server, where they are counted."""
    peak_bytes: int
    """The most memory that it ever had."""
    result: Any = None


class Child:
    """One process, killed when the block ends unless it has ended by itself."""

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Remember which function of `outbox.bench.contenders` it is to run, with what."""
        self._name = name
        self._arguments = json.dumps(arguments)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the block ends

    def __enter__(self) -> Self:
        # A session of its own: Ctrl-C is for the parent, which then kills it. And none of the
        # user's settings: they would win over what it is given, and lead to the user's tables.
        self._process = subprocess.Popen(  # noqa: S603  # this module itself
            [sys.executable, "-m", "outbox.bench.child", self._name],
            env={key: each for key, each in os.environ.items() if "OUTBOX" not in key.upper()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._write(self._arguments)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def look(self) -> Told:
        """Ask what it has used so far."""
        self._write(LOOK)
        return self._read()

    def result(self) -> Told:
        """Wait until it ends by itself, and return what it says."""
        return self._read()

    def require_alive(self) -> None:
        """Raise `BenchError` if it has ended."""
        if self._process.poll() is not None:
            raise self._failed()

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101  # asked for above
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            raise self._failed() from exc

    def _read(self) -> Told:
        assert self._process.stdout is not None  # noqa: S101  # asked for above
        line = self._process.stdout.readline()
        if not line:
            raise self._failed()
        return Told(**json.loads(line))

    def _failed(self) -> BenchError:
        self._process.kill()
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        return BenchError(f"the process of {self._name} ended with {code}: {said.strip()}")


def main(name: str) -> None:
    """Run one contender: arguments in, one line out for each look, and one at the end."""
    from outbox.bench import contenders  # noqa: PLC0415  # the parent needs none of what it imports

    # Not buffered: an interpreter that ends would stumble over a thread inside the buffer.
    orders = FileIO(sys.stdin.fileno(), closefd=False)
    arguments = json.loads(orders.readline())
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    _tell(contenders.BY_NAME[name](**arguments))


def _listen(orders: FileIO) -> None:
    for _ in iter(orders.readline, b""):
        _tell()
    os._exit(1)  # the parent is gone


def _tell(result: Any = None) -> None:
    from outbox.bench import contenders  # noqa: PLC0415  # the same

    told = {
        "cpu_seconds": time.process_time(),
        "statement_count": contenders.statements.count(),
        "peak_bytes": _peak_bytes(),
        "result": result,
    }
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # Of this program alone: what getrusage tells is at least what its parent had.
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


if __name__ == "__main__":
    main(sys.argv[1])
