"""One thing that was looked at, and what is to be done about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: Literal["ok", "degraded", "failed"]
    """`degraded`: it works, but slower or less safely. `failed`: it does not work."""
    found: str
    """What is the case, and what it means."""
    advice: str | None = None
    """What to do about it; None where nothing has to be done."""
