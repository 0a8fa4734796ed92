"""The audit transport: a route that appends each event to the audit trail, a table.

It only publishes. The table is `outbox_audit` of the relay's own database, or of another one; what
its records prove is in `outbox.audit`.
"""

from __future__ import annotations

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, SecretStr

from outbox.errors import ConfigurationError
from outbox.settings import DatabaseUrl
from outbox.transports.audit.publishing import AuditPublisher

__all__ = ["Options", "beside", "database_of", "probe", "publisher"]


class Options(BaseModel):
    """The settings of a route to the audit trail; no secret is ever shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: DatabaseUrl | None = None
    """SQLAlchemy URL of the database that keeps the trail; by default the relay's own."""


def beside(options: Options, database: sa.URL) -> Options:
    """Return options that name a database: the route's own, or the relay's."""
    if options.database_url is not None:
        return options
    url = SecretStr(database.render_as_string(hide_password=False))
    return options.model_copy(update={"database_url": url})


def database_of(route: str, options: Options) -> sa.URL:
    """Return the database that keeps the trail."""
    if options.database_url is None:
        raise ConfigurationError(f"routes.{route}.database_url: no database is named")
    return sa.make_url(options.database_url.get_secret_value())


def publisher(route: str, options: Options, timeout: float) -> AuditPublisher:
    """Make a publisher whose `publish` returns within `timeout` seconds."""
    return AuditPublisher(database_of(route, options), timeout)


def probe(route: str, options: Options, timeout: float) -> None:
    """Return when the trail can be read; raise `OutboxError` otherwise."""
    made = publisher(route, options, timeout)
    try:
        made.probe()
    finally:
        made.close()
