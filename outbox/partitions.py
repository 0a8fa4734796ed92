"""`outbox_event` in partitions by `seq`: `outbox migrate --partition-rows N`, PostgreSQL 14 on.

Each partition takes N numbers in a row, and some are always ahead of the writers: a number for
which there is none makes the business transaction fail. There is no DEFAULT partition to catch it,
because that would be scanned and locked whenever another one is attached.

A partition is made as a table of its own and attached, which lets writers and readers go on;
CREATE TABLE … PARTITION OF would lock all of them out. Functions work inside the caller's
transaction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from outbox.errors import ConfigurationError
from outbox.table import GUARD

AHEAD: Final = 10
"""So many empty partitions are ahead of the writers."""
SHORT: Final = 3
"""Where fewer are left, nobody makes them, and it is time to say so loudly."""
MARK: Final = "partition of outbox_event from {lower} to {upper}"
"""The comment by which a partition is known once it is detached."""

_BOUNDS: Final = re.compile(r"FOR VALUES FROM \('?(-?\d+)'?\) TO \('?(-?\d+)'?\)")


@dataclass(frozen=True, slots=True)
class Partition:
    """One of them; it takes the numbers from `lower` to below `upper`."""

    name: str
    """As SQL takes it: quoted, and with its schema where the search path needs that."""
    lower: int
    upper: int
    is_pending: bool = False
    """It is being detached: no query sees it any more."""


def is_partitioned(connection: sa.Connection) -> bool:
    """Tell whether the outbox has partitions."""
    if connection.dialect.name != "postgresql":
        return False
    query = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('outbox_event')"
    return bool(connection.scalar(sa.text(query)))


def partitions(connection: sa.Connection) -> list[Partition]:
    """Return them in the order of their numbers; raises `ConfigurationError` for foreign ones."""
    rows = connection.execute(
        sa.text(
            "SELECT c.oid::regclass::text, pg_get_expr(c.relpartbound, c.oid), i.inhdetachpending"
            "  FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = 'outbox_event'::regclass"
        )
    )
    found: list[Partition] = []
    for name, bounds, is_pending in rows:
        numbers = _BOUNDS.fullmatch(bounds)
        if numbers is None:
            raise ConfigurationError(
                f"{name} takes {bounds}, which is not from one number to another: remove it once"
                " what is in it is delivered, for a DEFAULT partition or an open end would lock"
                " writers out whenever one is added"
            )
        found.append(Partition(name, int(numbers[1]), int(numbers[2]), is_pending))
    return sorted(found, key=lambda each: each.lower)


def detached(connection: sa.Connection) -> list[Partition]:
    """Return those that were detached and are still there."""
    rows = connection.execute(
        sa.text(
            "SELECT c.oid::regclass::text, found[1]::bigint, found[2]::bigint"
            "  FROM pg_class AS c"
            " CROSS JOIN LATERAL regexp_match(obj_description(c.oid, 'pg_class'), :mark) AS found"
            " WHERE c.relkind = 'r' AND NOT c.relispartition AND found IS NOT NULL"
            "   AND c.relnamespace ="
            "       (SELECT relnamespace FROM pg_class WHERE oid = 'outbox_event'::regclass)"
        ),
        {"mark": f"^{MARK.format(lower='([0-9]+)', upper='([0-9]+)')}$"},
    )
    return [Partition(name, lower, upper) for name, lower, upper in rows]


def ahead_count(connection: sa.Connection, found: list[Partition]) -> int:
    """Return how many partitions have no number yet that was drawn.

    Where the role may not read the sequence, what it sees of the rows has to do.
    """
    number = _last_number(connection)
    return sum(each.lower > number for each in found)


def extend(connection: sa.Connection, rows: int | None = None) -> list[Partition]:
    """Attach what is missing ahead of the writers; return what was made.

    Each takes as many numbers as the last one, or `rows`; where the last one takes another number
    than that, at least one is made.
    """
    found = partitions(connection)
    last = found[-1] if found else Partition("", 1, _last_number(connection) + 1)
    size = rows or last.upper - last.lower
    is_new_size = not found or last.upper - last.lower != size
    missing = max(AHEAD - ahead_count(connection, found), int(is_new_size))
    made: list[Partition] = []
    for _ in range(missing + (not found)):
        made.append(_attach(connection, last.upper, last.upper + size))
        last = made[-1]
    return made


def attach(connection: sa.Connection, partition: Partition) -> None:
    """Attach a table; writers and readers go on meanwhile."""
    _run(
        connection,
        f"ALTER TABLE outbox_event ATTACH PARTITION {partition.name}"
        f" FOR VALUES FROM ({partition.lower}) TO ({partition.upper})",
    )


def convert(connection: sa.Connection, rows: int) -> None:
    """Make a table of partitions of the outbox; numbers go on, owner and rights stay.

    Raises `ConfigurationError` where the table has rows, or something that would be lost with it.
    """
    _run(connection, "LOCK TABLE outbox_event IN ACCESS EXCLUSIVE MODE")
    _require_nothing_to_lose(connection)
    owner, grants = _owner(connection), _grants(connection)
    number = _last_number(connection)
    _run(connection, "ALTER TABLE outbox_event DROP CONSTRAINT IF EXISTS outbox_event_own")
    schema = _schema(connection)
    _run(
        connection,
        f"CREATE TABLE {schema}.outbox_event_made (LIKE outbox_event INCLUDING ALL)"
        " PARTITION BY RANGE (seq)",
    )
    _run(connection, "DROP TABLE outbox_event")
    _run(connection, f"ALTER TABLE {schema}.outbox_event_made RENAME TO outbox_event")
    for old, new in (
        ("outbox_event_made_seq_seq", "outbox_event_seq_seq"),
        ("outbox_event_made_pkey", "outbox_event_pkey"),
        ("outbox_event_made_transaction_id_seq_idx", "outbox_event_transaction"),
    ):
        _run(connection, f"ALTER TABLE {schema}.{old} RENAME TO {new}")
    if number:
        _run(connection, f"SELECT setval('outbox_event_seq_seq', {number})")
    _run(connection, GUARD)
    _run(connection, f"ALTER TABLE outbox_event OWNER TO {owner}")
    for grant in grants:
        _run(connection, grant)
    extend(connection, rows)


def _attach(connection: sa.Connection, lower: int, upper: int) -> Partition:
    made = Partition(f"{_schema(connection)}.outbox_event_p{lower}", lower, upper)
    guard = GUARD.replace("outbox_event ", f"{made.name} ", 1)
    for statement in (
        f"CREATE TABLE {made.name} (LIKE outbox_event INCLUDING ALL EXCLUDING IDENTITY)",
        # LIKE makes a constraint that is valid, so that a dump could not be restored.
        f"ALTER TABLE {made.name} DROP CONSTRAINT IF EXISTS outbox_event_own",
        guard,
        f"ALTER TABLE {made.name} OWNER TO {_owner(connection)}",
        f"COMMENT ON TABLE {made.name} IS '{MARK.format(lower=lower, upper=upper)}'",
    ):
        _run(connection, statement)
    attach(connection, made)
    return made


def _last_number(connection: sa.Connection) -> int:
    query = (
        "SELECT CASE WHEN has_sequence_privilege(sequence, 'USAGE, SELECT')"
        "            THEN pg_sequence_last_value(sequence)"
        "            ELSE (SELECT max(seq) FROM outbox_event) END"
        "  FROM CAST(pg_get_serial_sequence('outbox_event', 'seq') AS regclass) AS sequence"
    )
    return connection.scalar(sa.text(query)) or 0


def _schema(connection: sa.Connection) -> str:
    query = (
        "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'outbox_event'::regclass"
    )
    return str(connection.execute(sa.text(query)).scalar_one())


def _owner(connection: sa.Connection) -> str:
    query = "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'outbox_event'::regclass"
    return str(connection.execute(sa.text(query)).scalar_one())


def _grants(connection: sa.Connection) -> list[str]:
    """Return the statements that grant again what is granted on the table and its sequence."""
    query = sa.text(
        "SELECT 'GRANT ' || acl.privilege_type || ' ON ' || what.kind || what.name || ' TO '"
        "       || CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END"
        "       || CASE WHEN acl.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END"
        "  FROM (VALUES ('', 'outbox_event'), ('SEQUENCE ', 'outbox_event_seq_seq'))"
        "       AS what (kind, name)"
        "  JOIN pg_class AS c ON c.oid = to_regclass(what.name)"
        " CROSS JOIN LATERAL aclexplode(c.relacl) AS acl"
        " WHERE acl.grantee <> c.relowner"
    )
    return list(connection.scalars(query))


def _require_nothing_to_lose(connection: sa.Connection) -> None:
    if connection.scalar(sa.text("SELECT EXISTS (SELECT FROM outbox_event)")):
        raise ConfigurationError(
            "outbox_event has rows, and is divided only while it is empty: let every route deliver"
            ' them, delete them by `outbox retention` with events = "0s" while no producer runs,'
            " and try again"
        )
    query = sa.text(
        "SELECT 'the trigger ' || tgname FROM pg_trigger"
        " WHERE tgrelid = 'outbox_event'::regclass AND NOT tgisinternal"
        " UNION ALL SELECT 'the publication ' || p.pubname FROM pg_publication_rel AS r"
        "  JOIN pg_publication AS p ON p.oid = r.prpubid"
        " WHERE r.prrelid = 'outbox_event'::regclass"
    )
    found = connection.scalars(query).all()
    if found:
        raise ConfigurationError(
            f"{', '.join(found)} would be lost with the table that outbox_event is now: drop it"
            " first, and make it again afterwards"
        )


def _run(connection: sa.Connection, statement: str) -> None:
    connection.exec_driver_sql(statement)
