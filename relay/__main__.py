"""`python -m relay` is `outbox relay`."""

from __future__ import annotations

import sys

from outbox.cli.app import run

if __name__ == "__main__":
    sys.exit(run(["relay", *sys.argv[1:]]))
