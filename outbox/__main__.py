"""`python -m outbox` is `outbox`."""

from __future__ import annotations

from outbox.cli import main

if __name__ == "__main__":
    main()
