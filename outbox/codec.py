"""Envelope ⇄ what travels: rows, the CloudEvents binary mode, and JSON for people and files.

Sources: CloudEvents 1.0.2 core specification; its Kafka protocol binding 1.0.2 (binary mode: each
attribute in a header `ce_…`, the media type in `content-type`); its JSON format 1.0.2.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from outbox.envelope import JSON_CONTENT_TYPE, SPEC_VERSION, Envelope
from outbox.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXTENSIONS: Final = {
    "dataschema": "dataschema",
    "correlationid": "correlation_id",
    "causationid": "causation_id",
    "actor": "actor",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
}
"""Attributes that the table keeps in its `headers` column: CloudEvents name → field."""

ATTRIBUTES: Final = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"}
    | {"data_base64", "content-type", "version", "partitionkey", "sequence"}
    | EXTENSIONS.keys()
)
"""Names that an application's own header may not have."""


def stored_headers(envelope: Envelope) -> dict[str, str]:
    """Return the `headers` column of an envelope: its extensions and the application's own."""
    stored = dict(envelope.headers)
    for name, field in EXTENSIONS.items():
        value = getattr(envelope, field)
        if value is not None:
            stored[name] = value
    return stored


def from_row(
    seq: int | None,
    id: str,  # noqa: A002  # the column's name
    source: str | None,
    type: str,  # noqa: A002  # the column's name
    version: int,
    subject: str | None,
    partition_key: str | None,
    topic: str | None,
    time: datetime,
    content_type: str,
    data: bytes | str,
    headers: Mapping[str, Any],
) -> Envelope:
    """Make the envelope of one `outbox_event` row; columns in the order of `ROW_COLUMNS`.

    A producer that writes plain SQL may store anything JSON as a header: what is not text
    becomes its JSON. On SQLite it may store text as data.
    """
    extensions: dict[str, str] = {}
    own: dict[str, str] = {}
    if headers:
        values = {
            name: value if isinstance(value, str) else orjson.dumps(value).decode()
            for name, value in headers.items()
            if value is not None
        }
        for name, field in EXTENSIONS.items():
            if name in values:
                extensions[field] = values.pop(name)
        own = values
    return Envelope(
        id=str(id),
        source=source,
        type=type,
        time=time,
        data=data.encode() if isinstance(data, str) else bytes(data),
        version=version,
        content_type=content_type,
        subject=subject,
        partition_key=partition_key,
        topic=topic,
        headers=own,
        sequence=seq,
        **extensions,
    )


ROW_COLUMNS: Final = (
    "seq",
    "id",
    "source",
    "type",
    "version",
    "subject",
    "partition_key",
    "topic",
    "time",
    "content_type",
    "data",
    "headers",
)


def to_headers(envelope: Envelope, prefix: str = "ce_") -> list[tuple[str, bytes]]:
    """Return the headers of the binary mode: attributes first, then the application's own.

    The partition key is the record's key, so it is not repeated here.
    """
    named = [
        ("specversion", SPEC_VERSION),
        ("id", envelope.id),
        ("source", envelope.source or ""),
        ("type", envelope.type),
        ("time", time_text(envelope.time)),
        ("version", str(envelope.version)),
        ("subject", envelope.subject),
        ("sequence", None if envelope.sequence is None else str(envelope.sequence)),
        ("dataschema", envelope.dataschema),
        ("correlationid", envelope.correlation_id),
        ("causationid", envelope.causation_id),
        ("actor", envelope.actor),
        ("traceparent", envelope.traceparent),
        ("tracestate", envelope.tracestate),
    ]
    headers = [(prefix + name, value.encode()) for name, value in named if value is not None]
    headers.append(("content-type", envelope.content_type.encode()))
    headers += [(name, value.encode()) for name, value in envelope.headers.items()]
    return headers


def from_headers(
    key: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    data: bytes,
    *,
    topic: str | None = None,
    prefix: str = "ce_",
) -> Envelope:
    """Read a message in binary mode; raises `DecodeError` where it is no such CloudEvent."""
    try:
        texts = {name: value.decode() for name, value in headers}
        attributes = {
            name.removeprefix(prefix): value
            for name, value in texts.items()
            if name.startswith(prefix)
        }
        extensions = {
            field: attributes[name] for name, field in EXTENSIONS.items() if name in attributes
        }
        if attributes["specversion"] != SPEC_VERSION:
            msg = f"CloudEvents version {attributes['specversion']} is not {SPEC_VERSION}"
            raise DecodeError(msg)
        return Envelope(
            id=attributes["id"],
            source=attributes["source"],
            type=attributes["type"],
            time=time_of(attributes["time"]) if "time" in attributes else datetime.now(UTC),
            data=data,
            version=int(attributes.get("version", "1")),
            content_type=texts.get("content-type", JSON_CONTENT_TYPE),
            subject=attributes.get("subject"),
            partition_key=None if key is None else key.decode(),
            topic=topic,
            headers={
                name: value
                for name, value in texts.items()
                if not name.startswith(prefix) and name != "content-type"
            },
            sequence=int(attributes["sequence"]) if "sequence" in attributes else None,
            **extensions,
        )
    except KeyError as exc:
        msg = f"the message has no header {prefix}{exc.args[0]}, so it is no CloudEvent"
        raise DecodeError(msg) from exc
    except ValueError as exc:
        msg = f"the message has a header or key that cannot be read: {exc}"
        raise DecodeError(msg) from exc


def to_json(envelope: Envelope) -> dict[str, Any]:
    """Return the event in the JSON format of CloudEvents, with `data` inline where it is JSON."""
    event: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
        "time": time_text(envelope.time),
        "datacontenttype": envelope.content_type,
        "version": envelope.version,
        "subject": envelope.subject,
        "partitionkey": envelope.partition_key,
        "sequence": None if envelope.sequence is None else str(envelope.sequence),
        **stored_headers(envelope),
    }
    event = {name: value for name, value in event.items() if value is not None}
    try:
        event["data"] = orjson.loads(envelope.data)
    except orjson.JSONDecodeError:
        event["data_base64"] = base64.b64encode(envelope.data).decode()
    return event


def time_text(moment: datetime) -> str:
    """Write a moment as RFC 3339 in UTC, ending in `Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def time_of(text: str) -> datetime:
    """Read an RFC 3339 moment; raises `ValueError` where it has no time zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        msg = f"the time {text!r} has no time zone"
        raise ValueError(msg)
    return moment
