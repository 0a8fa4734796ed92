"""③ The relay: moves events from the outbox table to brokers, in order and at least once.

    Relay ─▶ Route ─▶ Term ┬ reader     capture ──▶ bounded queue of pages
    (daemon) (route)       │ publisher  filter ─▶ publish ─▶ settle      decided by `plan`
                           └ keeper     lease and position in `outbox_checkpoint`

A route is a loop around terms:

    waiting ──lease granted──▶ term ──told to stop, or done──▶ over
       ▲                        │  └────wrong settings───────▶ over, with an error
       └──────back-off──────────┘  lease lost, server replaced, database gone, anything unexpected

A term starts from the stored position and trusts nothing that an earlier one remembered. What was
published but not stored when it ends is published again by the next one: never lost, never out of
order, at most what was in flight twice.
"""
