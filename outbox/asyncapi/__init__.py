"""What an application publishes and receives, and where, as AsyncAPI 3.0 describes it.

    catalogue ─┐
    routes ────┼─▶ `landscape` ─▶ `document`
    consumers ─┘

The page of `outbox schema docs` shows the same landscape to people.

`broker` and `topics` read the settings of a route, without its secrets; all else is pure.
"""
