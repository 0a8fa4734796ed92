"""How an event looks: as a row, as a line, and in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from outbox.cli.output import Column, moment, visible
from outbox.codec import time_text
from outbox.sealing import REDACTED, without_tokens

if TYPE_CHECKING:
    from outbox.cli.output import Output
    from outbox.envelope import Envelope

COLUMNS: Final = (
    Column("seq", right=True),
    Column("time"),
    Column("type", shrinks=True),
    Column("key", shrinks=True),
    Column("data", shrinks=True),
)

SHOWN: Final = orjson.dumps(REDACTED)
"""The JSON in the place of a personal value."""


def cells(envelope: Envelope) -> tuple[object, ...]:
    """Return what a row shows, in the order of `COLUMNS`."""
    return (
        envelope.sequence,
        moment(envelope.time),
        envelope.type,
        envelope.partition_key,
        text_of(envelope.data),
    )


def line(envelope: Envelope) -> str:
    """Return one line for a stream of events."""
    return "  ".join(visible("-" if cell is None else cell) for cell in cells(envelope))


def redacted(data: bytes) -> bytes:
    """Return data without its personal values."""
    return without_tokens(data, SHOWN)


def text_of(data: bytes) -> str:
    """Return data as text; bytes that are none are written out, and personal values are not."""
    return redacted(data).decode(errors="backslashreplace")


def laid_out(data: bytes) -> str:
    """Return the same on several lines where it is JSON."""
    try:
        return orjson.dumps(orjson.loads(redacted(data)), option=orjson.OPT_INDENT_2).decode()
    except orjson.JSONDecodeError:
        return text_of(data)


def fields(envelope: Envelope) -> list[tuple[str, object]]:
    """Return names and values of everything but the data."""
    return [
        ("id", envelope.id),
        ("sequence", envelope.sequence),
        ("type", envelope.type),
        ("version", envelope.version),
        ("time", time_text(envelope.time)),
        ("source", envelope.source),
        ("subject", envelope.subject),
        ("partition key", envelope.partition_key),
        ("topic", envelope.topic),
        ("content type", envelope.content_type),
        ("dataschema", envelope.dataschema),
        ("correlation id", envelope.correlation_id),
        ("causation id", envelope.causation_id),
        ("actor", envelope.actor),
        ("traceparent", envelope.traceparent),
        ("tracestate", envelope.tracestate),
        *((f"header {name}", value) for name, value in envelope.headers.items()),
    ]


def show_data(output: Output, data: bytes) -> None:
    """Print data below the fields, laid out where it is JSON, without its personal values."""
    output.line()
    for part in laid_out(data).splitlines():
        output.line(part)
