"""The rights of each kind of role, and no more: `outbox migrate --grant-app ROLE`.

On MariaDB a role is a user, `shop` or `shop@10.0.%`, or a role of the server.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.exc import DBAPIError

from outbox.dialect import is_mysql, mysql_number
from outbox.insert import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.engine import Dialect

Kind = Literal["app", "relay", "worker", "read"]
"""What a role does: emits, runs the relay, runs workers, or only looks."""

_EVERYTHING: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")

RIGHTS: Final[Mapping[Kind, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "app": {
            "outbox_event": ("INSERT",),
            # The table's own check reads it.
            "SEQUENCE outbox_event_seq_seq": ("SELECT",),
            # Useless without the master key.
            "outbox_personal_key": ("SELECT", "INSERT"),
        },
        "relay": {
            "outbox_event": ("SELECT", "DELETE"),
            "outbox_inbox": ("SELECT", "DELETE"),
            "outbox_incarnation": ("SELECT", "INSERT"),
            "outbox_checkpoint": ("SELECT", "INSERT", "UPDATE"),
            "outbox_dead_letter": _EVERYTHING,
            # What is in the trail is never changed, not even by who writes it.
            "outbox_audit": ("SELECT", "INSERT"),
        },
        "worker": {
            "outbox_inbox": ("SELECT", "INSERT"),
            "outbox_dead_letter": _EVERYTHING,
            "outbox_personal_key": ("SELECT",),
        },
        "read": {
            "outbox_event": ("SELECT",),
            "outbox_checkpoint": ("SELECT",),
            "outbox_dead_letter": ("SELECT",),
            "outbox_inbox": ("SELECT",),
            "outbox_incarnation": ("SELECT",),
            "outbox_audit": ("SELECT",),
        },
    }
)

RIGHTS_MYSQL: Final[Mapping[Kind, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        **RIGHTS,
        # Its number is the server's: one by hand, below what was read, would never be delivered.
        "app": {
            "outbox_event": (f"INSERT ({', '.join(COLUMNS)})",),
            "outbox_personal_key": ("SELECT", "INSERT"),
        },
    }
)

_NO_SUCH_USER: Final = frozenset({1133, 1410})
_NEVER_CREATES: Final = "SET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_AUTO_CREATE_USER')"
"""Where a server is set otherwise, GRANT makes a user, without a password, of a wrong name."""

_USAGE: Final = """\
DO $$ BEGIN
    IF NOT has_schema_privilege({role}, {schema}, 'USAGE') THEN
        EXECUTE 'GRANT USAGE ON SCHEMA ' || {schema}::regnamespace || ' TO ' || quote_ident({role});
    END IF;
END $$"""
_SCHEMA: Final = "(SELECT relnamespace FROM pg_class WHERE oid = 'outbox_event'::regclass)"
"""Wherever the search path finds the tables."""

_EXCESS: Final = sa.text(
    "SELECT privilege FROM unnest(CAST(:unwanted AS text[])) AS privilege"
    " WHERE has_table_privilege(:role, :name, privilege)"
)
_EXCESS_MYSQL: Final = sa.text(
    "SELECT DISTINCT privilege_type FROM ("
    "SELECT grantee, privilege_type FROM information_schema.user_privileges"
    " UNION ALL SELECT grantee, privilege_type FROM information_schema.schema_privileges"
    " WHERE DATABASE() LIKE table_schema"
    " UNION ALL SELECT grantee, privilege_type FROM information_schema.table_privileges"
    " WHERE table_schema = DATABASE() AND table_name = :name) AS given"
    " WHERE grantee IN :grantees AND privilege_type IN :unwanted"
    " ORDER BY privilege_type"
).bindparams(sa.bindparam("grantees", expanding=True), sa.bindparam("unwanted", expanding=True))

UNWANTED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "outbox_event": ("SELECT", "UPDATE", "DELETE", "TRUNCATE"),
        "outbox_audit": ("UPDATE", "DELETE", "TRUNCATE"),
    }
)
"""What an application may not do to events, and what nobody may do to the audit trail."""


def statements(kind: Kind, role: str, dialect: Dialect) -> list[str]:
    """Return the statements that give a role the rights of its kind; they may be run again."""
    if is_mysql(dialect):
        return list(_grants(RIGHTS_MYSQL[kind], _account(role)))
    name = postgresql.dialect().identifier_preparer.quote(role)  # type: ignore[no-untyped-call]  # SQLAlchemy left it so
    text = "'" + role.replace("'", "''") + "'"
    return [_USAGE.format(role=text, schema=_SCHEMA), *_grants(RIGHTS[kind], name)]


def missing_roles(connection: sa.Connection, roles: Sequence[str]) -> list[str]:
    """Return those that the server does not have."""
    wanted = list(dict.fromkeys(roles))
    if is_mysql(connection.dialect):
        connection.exec_driver_sql(_NEVER_CREATES)
        return [role for role in wanted if not _is_there(connection, role)]
    query = sa.text("SELECT rolname FROM pg_roles")
    known = set(connection.scalars(query))
    return [role for role in wanted if role not in known]


def excess(connection: sa.Connection, role: str, name: str) -> list[str]:
    """Return what a role may do to a table of `UNWANTED` that it should not.

    MariaDB tells it to those who may read its own tables of rights, and others nothing.
    """
    unwanted = list(UNWANTED[name])
    if is_mysql(connection.dialect):
        user, host = _parts(role)
        grantees = [f"'{user}'@'{each}'" for each in ([host] if host else ["", "%"])]
        known = ["DROP" if each == "TRUNCATE" else each for each in unwanted]
        parameters = {"grantees": grantees, "name": name, "unwanted": known}
        return list(connection.scalars(_EXCESS_MYSQL, parameters))
    parameters = {"role": role, "name": name, "unwanted": unwanted}
    return list(connection.scalars(_EXCESS, parameters))


def _grants(rights: Mapping[str, tuple[str, ...]], name: str) -> Iterator[str]:
    for relation, privileges in rights.items():
        yield f"GRANT {', '.join(privileges)} ON {relation} TO {name}"


def _account(role: str) -> str:
    """Quote a user of MariaDB, with its host where that is given."""
    quote = mysql.dialect().identifier_preparer.quote
    # It doubles what the driver would take for a placeholder.
    return "@".join(quote(part).replace("%%", "%") for part in _parts(role) if part)


def _parts(role: str) -> tuple[str, str]:
    name, at, host = role.rpartition("@")
    return (name, host) if at else (role, "")


def _is_there(connection: sa.Connection, role: str) -> bool:
    """Tell whether a user is there, by a grant of nothing; few may read the table of users."""
    statement = f"GRANT USAGE ON outbox_event TO {_account(role)}"
    try:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    except DBAPIError as exc:
        if mysql_number(exc) not in _NO_SUCH_USER:
            raise
        return False
    return True
