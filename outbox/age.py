"""Ages and moments as people write them: `90s`, `15m`, `2h`, `3d`; `2026-05-01T08:00`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_AGE: Final = re.compile(r"(\d{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def read_age(text: str) -> timedelta | None:
    """Return the age that a text means; None where it means none."""
    found = _AGE.fullmatch(text.strip())
    return None if found is None else timedelta(**{_UNITS[found[2]]: int(found[1])})


def read_moment(text: str) -> datetime:
    """Return the moment that a text in ISO 8601 means, in UTC unless it has a zone.

    Raises `ValueError` for anything else.
    """
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
