"""① `emit`: one event becomes one row, in the caller's own transaction."""

from __future__ import annotations

import sqlite3
import sys
import uuid
from collections.abc import Mapping
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session

from outbox import pending
from outbox.codec import ATTRIBUTES, PREFIX, may_exceed, size_of
from outbox.context import acting, cause
from outbox.envelope import JSON_CONTENT_TYPE, MAX_NAME_BYTES, Draft, new_id
from outbox.errors import EventTooLargeError, InvalidEventError, NoTransactionError, UsageError
from outbox.event import catalogue, has_field
from outbox.insert import insert_sqlite, statement
from outbox.keys import require_key_store
from outbox.sealing import Collector
from outbox.settings import MAX_RECORD_BYTES

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    from outbox.envelope import Envelope
    from outbox.event import EventType
    from outbox.sealing import Secrets

    Target: TypeAlias = (
        Session
        | scoped_session[Any]
        | AsyncSession
        | async_scoped_session[Any]
        | sa.Connection
        | AsyncConnection
        | psycopg.Connection[Any]
        | sqlite3.Connection
    )


class Attributes(TypedDict, total=False):
    """What `emit` takes about an event, for those that pass it on."""

    key: str | None
    topic: str | None
    subject: str | None
    headers: Mapping[str, str] | None
    id: str | uuid.UUID | None
    time: datetime | None
    source: str | None
    actor: str | None
    correlation_id: str | None
    causation_id: str | None
    traceparent: str | None
    tracestate: str | None
    dataschema: str | None


def emit(
    target: Target,
    event: object,
    *,
    key: str | None = None,
    topic: str | None = None,
    subject: str | None = None,
    headers: Mapping[str, str] | None = None,
    id: str | uuid.UUID | None = None,  # noqa: A002  # CloudEvents calls it so
    time: datetime | None = None,
    source: str | None = None,
    actor: str | None = None,
    correlation_id: str | None = None,
    causation_id: str | None = None,
    traceparent: str | None = None,
    tracestate: str | None = None,
    dataschema: str | None = None,
    size_limit: int = MAX_RECORD_BYTES,
) -> Envelope:
    """Record an event in the transaction of `target`: it commits with the state, or not at all.

    `event` is an instance of a class registered with `@outbox.event`. It is serialised here and
    now, so that errors belong to the caller and later changes of the object do not count.

    `target` is a SQLAlchemy `Session` or `Connection`, one of their scoped or asyncio twins (there
    is nothing to await), a `psycopg.Connection` or a `sqlite3.Connection`.

    - On a Session the row is written by the next flush, after the state, and at the latest before
      the commit; on a Connection before the commit. All that is pending is one statement, so ten
      events of a transaction cost one round trip. A savepoint that is rolled back takes its
      events with it; on a Session it is `session.begin_nested()` that makes one.
    - On a driver's own connection nothing announces the commit, so each event is a statement, at
      once: emit after the state is written. psycopg's `with connection.pipeline():` makes one
      round trip of many.

    Events of one `key`, by default the value of the class's key field, reach the broker in the
    order in which their writers held the lock of the row that they changed. `id` is a new UUIDv7
    and `time` is now; `source` and `topic` are the relay's settings unless given. `actor` is that
    of `outbox.actor`. Inside a handler, correlation, causation, actor and trace context come from
    the event being handled.

    Raises `NoTransactionError`, `UnregisteredEventError`, `InvalidEventError` for data or an
    attribute that is not valid, `EventTooLargeError` above `size_limit` bytes of data, key and
    headers, and `UsageError` for another target.
    """
    event_type = catalogue.of(type(event))
    draft = Draft()
    draft.id = new_id() if id is None else _id(id)
    draft.source = _name("source", source)
    draft.type = event_type.name
    draft.version = event_type.version
    draft.time = datetime.now(UTC) if time is None else _time(time)
    draft.content_type = JSON_CONTENT_TYPE
    collector = Collector()
    draft.data = event_type.dump(event, collector)
    draft.subject = _text("subject", subject)
    draft.partition_key = _key(event_type, event) if key is None else _name("key", key)
    draft.topic = _text("topic", topic)
    draft.dataschema = _text("dataschema", dataschema)
    draft.headers = {} if headers is None else _headers(headers)
    draft.actor = _text("actor", actor)
    draft.correlation_id = _text("correlation_id", correlation_id)
    draft.causation_id = _text("causation_id", causation_id)
    draft.traceparent = _text("traceparent", traceparent)
    draft.tracestate = _text("tracestate", tracestate)
    draft.sequence = None
    handled, who = cause.get(), acting.get()
    if draft.actor is None and who is not None and who.cause is handled:
        draft.actor = _text("actor", who.name)
    if handled is not None:
        _inherit(draft, handled)
        if draft.actor is None and who is not None:  # said around the worker, not in the handler
            draft.actor = _text("actor", who.name)
    envelope = draft.finish()
    secrets = _secrets(collector, event_type, event) if collector else None
    growth = secrets.growth if secrets else 0
    if may_exceed(envelope, size_limit - growth):
        _check_size(event_type, size_of(envelope) + growth, size_limit)
    _add(target, envelope, secrets)
    return envelope


def _secrets(collector: Collector, event_type: EventType, event: object) -> Secrets:
    """Return the personal values of an event, each with its subject."""

    def subject_of(field: str | None, owner: object) -> str:
        name = field or event_type.key
        holder = owner if field is not None and has_field(owner, field) else event
        subject = None if name is None else event_type.text_of(holder, name)
        if not subject:
            where = "no key" if name is None else f"nothing in {name!r}"
            raise InvalidEventError(
                f"{event_type} has personal data, and {where} that says whose it is"
            )
        return subject

    return collector.secrets(subject_of)


def _check_size(event_type: EventType, size: int, limit: int) -> None:
    if size > limit:
        raise EventTooLargeError(
            f"{event_type} would be a record of {size:,} bytes, the limit is {limit:,}: store"
            " the bulk elsewhere and emit a reference to it, or raise size_limit (max_record_bytes"
            " of an EventPublisher) and the broker's own limit"
        )


def _add(target: object, envelope: Envelope, secrets: Secrets | None) -> None:
    target = _sync(target)
    if secrets is not None:
        require_key_store()  # here, and not when the transaction is about to commit
    if isinstance(target, Session):
        pending.add_to_session(target, envelope, secrets)
    elif isinstance(target, sa.Connection):
        pending.add_to_connection(target, envelope, secrets)
    elif secrets is not None:
        raise UsageError(
            "an event with personal data needs a key from a table, so emit it on a SQLAlchemy"
            f" Session or Connection, not on {type(target).__module__}.{type(target).__qualname__}"
        )
    elif isinstance(target, sqlite3.Connection):
        _insert_sqlite(target, envelope)
    elif _is_psycopg(target, "Connection"):
        _insert_psycopg(cast("psycopg.Connection[Any]", target), envelope)
    elif _is_psycopg(target, "AsyncConnection"):
        raise UsageError(
            "emit has nothing to await, so it cannot use a psycopg.AsyncConnection: emit on a"
            " SQLAlchemy AsyncSession or AsyncConnection (postgresql+psycopg), or on a"
            " psycopg.Connection"
        )
    else:
        raise UsageError(
            f"cannot emit on {type(target).__module__}.{type(target).__qualname__}: give a"
            " SQLAlchemy Session, AsyncSession, Connection or AsyncConnection, a"
            " psycopg.Connection or a sqlite3.Connection"
        )


def _sync(target: object) -> object:
    """Return the Session or Connection behind a scoped or asyncio one."""
    if isinstance(target, scoped_session):
        return target()
    # Nobody who has not imported it holds one; importing it here would need greenlet.
    asyncio = sys.modules.get("sqlalchemy.ext.asyncio")
    if asyncio is None:
        return target
    if isinstance(target, asyncio.async_scoped_session):
        target = target()
    if isinstance(target, asyncio.AsyncSession):
        return target.sync_session
    if isinstance(target, asyncio.AsyncConnection):
        if target.sync_connection is None:
            raise NoTransactionError(
                "this AsyncConnection is not connected yet: emit inside"
                " `async with engine.begin() as connection:`"
            )
        return target.sync_connection
    return target


def _is_psycopg(target: object, name: str) -> bool:
    psycopg = sys.modules.get("psycopg")
    return psycopg is not None and isinstance(target, getattr(psycopg, name))


def _insert_psycopg(connection: psycopg.Connection[Any], envelope: Envelope) -> None:
    import psycopg  # noqa: PLC0415  # whoever has a connection has imported it

    status = connection.info.transaction_status
    states = psycopg.pq.TransactionStatus
    # Inside a pipeline it is ACTIVE, which does not tell a transaction from autocommit.
    is_open = status == states.INTRANS or (status == states.ACTIVE and not connection.autocommit)
    if not is_open:
        raise NoTransactionError(
            f"this psycopg connection has no transaction that can take an event ({status.name}):"
            " emit inside `with connection.transaction():`, and where one has failed, roll back"
            " first"
        )
    # A cursor of our own kind: the connection's may read other placeholders.
    psycopg.Cursor(connection).execute(*statement(envelope))


def _insert_sqlite(connection: sqlite3.Connection, envelope: Envelope) -> None:
    if not connection.in_transaction:
        raise NoTransactionError(
            "no transaction is open on this sqlite3 connection: begin one, or emit after the"
            " statement that the event tells of"
        )
    insert_sqlite(connection, envelope)


def _inherit(draft: Draft, handled: Envelope) -> None:
    """Fill in from the event being handled what was not given."""
    is_own_trace = draft.traceparent is not None  # its state belongs to it
    draft.actor = draft.actor or handled.actor
    draft.correlation_id = draft.correlation_id or handled.correlation_id or handled.id
    draft.causation_id = draft.causation_id or handled.id
    draft.traceparent = draft.traceparent or handled.traceparent
    draft.tracestate = draft.tracestate or (None if is_own_trace else handled.tracestate)


def _text(name: str, value: str | None) -> str | None:
    """Return an attribute that the database can hold and CloudEvents allows."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidEventError(f"{name} has to be a str, not {type(value).__name__}")
    if not value:
        raise InvalidEventError(f"{name} is empty: give it a value, or leave it out")
    if "\0" in value or not (value.isascii() or _is_unicode(value)):
        raise InvalidEventError(f"{name} has a character that no database stores as text")
    return value


def _name(name: str, value: str | None) -> str | None:
    """Return an attribute that is also short enough for an index."""
    text = _text(name, value)
    # A letter takes four bytes at most.
    if text and 4 * len(text) > MAX_NAME_BYTES and len(text.encode()) > MAX_NAME_BYTES:
        raise InvalidEventError(f"{name} is longer than {MAX_NAME_BYTES} bytes")
    return text


def _is_unicode(value: str) -> bool:
    """Tell whether a str is text, and not half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _key(event_type: EventType, event: object) -> str | None:
    key = event_type.key_of(event)
    try:
        return _name("key", key)
    except InvalidEventError:
        _name(f"the key field {event_type.key!r} of {event_type}", key)  # raises with that name
        raise


def _id(value: str | uuid.UUID) -> str:
    try:
        return str(value if isinstance(value, uuid.UUID) else uuid.UUID(value))
    except (ValueError, AttributeError, TypeError):
        raise InvalidEventError("id is not a UUID: give one, or leave it out") from None


def _time(value: object) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidEventError("time has to be a timezone-aware datetime: datetime.now(UTC)")
    if not MINYEAR < value.year < MAXYEAR:
        raise InvalidEventError("time is in a year that not every time zone has")
    return value


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise InvalidEventError("headers have to be a mapping of str to str")
    for name, value in headers.items():
        _text("the name of a header", name)
        if name.lower() in ATTRIBUTES or name.lower().startswith(PREFIX):
            raise InvalidEventError(
                f"the header {name!r} has a name of CloudEvents: set the attribute, or rename it"
            )
        # Unlike an attribute, a header may be empty.
        if value != "":
            _text(f"the header {name!r}", value)
        if value is None:
            raise InvalidEventError(f"the header {name!r} is None: leave it out")
    return dict(headers)
