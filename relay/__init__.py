"""Moves rows of the outbox to brokers."""
