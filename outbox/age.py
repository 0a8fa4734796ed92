"""Ages as people write them: `90s`, `15m`, `2h`, `3d`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

_AGE: Final = re.compile(r"(\d{1,6})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def read_age(text: str) -> timedelta | None:
    """Return the age that a text means; None where it means none."""
    found = _AGE.fullmatch(text.strip())
    return None if found is None else timedelta(**{_UNITS[found[2]]: int(found[1])})
