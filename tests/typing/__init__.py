"""Files that type checkers read: each line is a promise about the public types."""

from __future__ import annotations
