"""What an application publishes and receives, and where, as AsyncAPI 3.0 describes it.

    catalogue ─┐
    routes ────┼─▶ `landscape` ─▶ `document`   one JSON document, for programs
    consumers ─┘        └──────▶ `page`        one HTML file, for people

`broker` and `topics` read the settings of a route, without its secrets; all else is pure.
"""
