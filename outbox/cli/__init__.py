"""The program `outbox`: one module a command, all above the library and the relay.

app ─▶ migrate · relay · consume · status · events · dead_letters · replay · bench · demo
          │
          ├─▶ invocation   the settings and the database of this run, read when asked for
          ├─▶ output       tables on a terminal, plain text in a pipe, JSON for scripts
          └─▶ errors       the one place where an exception becomes a sentence and an exit code
"""

from __future__ import annotations


def main() -> None:
    """Run the program and exit: 0 done, 1 failed, 2 the command line or the settings are wrong."""
    from outbox.cli.app import run  # noqa: PLC0415  # the library does not pay for the program

    raise SystemExit(run())
