"""The rights of each kind of role on PostgreSQL, and no more: `outbox migrate --grant-app ROLE`."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Kind = Literal["app", "relay", "worker", "read"]
"""What a role does: emits, runs the relay, runs workers, or only looks."""

_EVERYTHING: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")

RIGHTS: Final[Mapping[Kind, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "app": {
            "outbox_event": ("INSERT",),
            # The table's own check reads it.
            "SEQUENCE outbox_event_seq_seq": ("SELECT",),
        },
        "relay": {
            "outbox_event": ("SELECT", "DELETE"),
            "outbox_inbox": ("SELECT", "DELETE"),
            "outbox_incarnation": ("SELECT", "INSERT"),
            "outbox_checkpoint": ("SELECT", "INSERT", "UPDATE"),
            "outbox_dead_letter": _EVERYTHING,
        },
        "worker": {
            "outbox_inbox": ("SELECT", "INSERT"),
            "outbox_dead_letter": _EVERYTHING,
        },
        "read": {
            "outbox_event": ("SELECT",),
            "outbox_checkpoint": ("SELECT",),
            "outbox_dead_letter": ("SELECT",),
            "outbox_inbox": ("SELECT",),
            "outbox_incarnation": ("SELECT",),
        },
    }
)

_USAGE: Final = """\
DO $$ BEGIN
    IF NOT has_schema_privilege({role}, {schema}, 'USAGE') THEN
        EXECUTE 'GRANT USAGE ON SCHEMA ' || {schema}::regnamespace || ' TO ' || quote_ident({role});
    END IF;
END $$"""
_SCHEMA: Final = "(SELECT relnamespace FROM pg_class WHERE oid = 'outbox_event'::regclass)"
"""Wherever the search path finds the tables."""

_EXCESS: Final = sa.text(
    "SELECT privilege FROM unnest(ARRAY['SELECT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS privilege"
    " WHERE has_table_privilege(:role, 'outbox_event', privilege)"
)


def statements(kind: Kind, role: str) -> list[str]:
    """Return the statements that give a role the rights of its kind; they may be run again."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy left it so
    name = dialect.identifier_preparer.quote(role)
    text = "'" + role.replace("'", "''") + "'"
    return [
        _USAGE.format(role=text, schema=_SCHEMA),
        *[f"GRANT {', '.join(rights)} ON {on} TO {name}" for on, rights in RIGHTS[kind].items()],
    ]


def missing_roles(connection: sa.Connection, roles: Sequence[str]) -> list[str]:
    """Return those that the server does not have."""
    query = sa.text("SELECT rolname FROM pg_roles")
    known = set(connection.scalars(query))
    return [role for role in dict.fromkeys(roles) if role not in known]


def excess(connection: sa.Connection, role: str) -> list[str]:
    """Return what a role that may only insert events may do to them beside that."""
    return list(connection.scalars(_EXCESS, {"role": role}))
