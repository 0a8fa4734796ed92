"""`outbox demo`: two shops take the same orders while everything around them fails.

One commits, then publishes; the other emits. Read first what a newcomer would write:

    events.py ─▶ shop.py ─▶ service.py (emit) ─▶ billing.py (consume)     naive.py: without

then what happens to them: `story.py` in a `world`, which is SQLite and memory (`memory.py`) or
PostgreSQL and Kafka (`kafka.py`), told by `narrator.py` and counted by `counting.py`.
"""
