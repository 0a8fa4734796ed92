"""Programs for those who work on this project; no part of the package."""

from __future__ import annotations
