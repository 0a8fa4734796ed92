"""`outbox bench`: what this library does, beside what one would write by hand, in the same run.

    place.py ─▶ a schema and topics of its own, removed whatever happens
    handwritten/    the ceilings: short scripts to be checked by reading them
    contenders.py   the relay and the scripts, each run in a process of its own (child.py)
    emit.py · relay.py · late.py · latency.py · consume.py    what is measured
    rounds.py       whoever comes first in a round comes last in the next
    records.py · statements.py      what the broker holds, and what the database was sent
    apart.py        a measurement in a process that can always be ended
    report.py ─▶ tables.py          medians and ratios, without I/O; what people and pages see

It is a program beside the library, as the demo is: it knows the relay, and nothing knows it but
`outbox/cli`, which prints what it measured.
"""
