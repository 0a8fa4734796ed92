"""Moments as people type them: `2026-05-01T08:00`, `2026-05-01`, `90s`, `15m`, `2h`, `3d`."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from outbox.age import read_age, read_moment


def since(text: str, now: datetime) -> datetime:
    """Return the moment that a text means; without a zone it is UTC, as in what we print.

    Raises `ValueError` for anything else.
    """
    age = read_age(text)
    if age is not None:
        return now - age
    return read_moment(text.strip())


def parse_since(text: str) -> datetime:
    """Read the value of a `--since` option."""
    try:
        return since(text, datetime.now(UTC))
    except (ValueError, OverflowError):
        message = (
            f"{text!r} is no time: write 2026-05-01T08:00 (UTC) or an age such as 90s, 15m, 2h, 3d"
        )
        raise typer.BadParameter(message) from None
