"""The contract of transports, run over every implementation."""

from __future__ import annotations
