"""Tests: unit, contract, integration, acceptance; `fix_*.py` hold the fixtures."""

from __future__ import annotations
