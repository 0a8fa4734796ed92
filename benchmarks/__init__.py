"""Measurements, each against a hand-written ceiling in the same run."""
