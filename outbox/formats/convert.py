"""Rows of JSON become rows in other formats, by the schemas of a registry."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from outbox.codec import is_json
from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    DestinationRefusedError,
    HeldBackError,
    PermanentError,
    RecordRefusedError,
    TransientError,
)
from outbox.formats.codec import MisfitError, UnusableSchemaError
from outbox.formats.wire import MEDIA_TYPES, head_of
from outbox.rows import CONTENT_TYPE, DATA, SOURCE, TOPIC, TYPE, VERSION, Rows, to_envelope
from outbox.transports.topic import TopicTemplate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outbox.formats.codec import Codec
    from outbox.formats.registry import Ready, Registry
    from outbox.formats.settings import SchemaSettings
    from outbox.rows import Row

Error = PermanentError | TransientError

_LOOK_EVERY: Final = 64
"""Events between two looks at the clock."""
_LATE: Final = "converting took too long; the rest is published next"
_KINDS: Final = 10_000
"""Kinds of events that are remembered, at most."""
_KEEP_SECONDS: Final = 30.0
"""How long a kind is remembered; then the last version of a subject may be another one."""


class Writer(NamedTuple):
    """How the events of one kind are written."""

    codec: Codec
    head: bytes
    media: bytes
    subject: str
    number: int | None


class Converter:
    """Converts one batch after another; used from one thread at a time."""

    def __init__(
        self, settings: SchemaSettings, registry: Registry, topic: str | None, seconds: float
    ) -> None:
        """Take the template of the topic, and how long converting a batch may take."""
        self._settings = settings
        self._registry = registry
        self._seconds = seconds
        self._template = (
            None if topic is None or settings.subject == "record" else TopicTemplate(topic)
        )
        self._writers: dict[tuple[object, ...], Writer | None] = {}
        self._good_until = 0.0

    def convert(self, events: Rows) -> tuple[Rows, Mapping[int, Error]]:
        """Return the events as they are to be published, and why some of them cannot be.

        Those stay as they are. An event that does not fit its schema has a `PermanentError`; what
        the registry does not say, or what there was no time for, a `TransientError`.
        """
        started = time.monotonic()
        deadline = started + self._seconds
        if started > self._good_until or len(self._writers) > _KINDS:
            self._writers.clear()
            self._good_until = started + _KEEP_SECONDS
        errors: dict[int, Error] = {}
        refused: dict[tuple[object, ...], Error] = {}
        rows: list[Row] = []
        for index, row in enumerate(events.rows):
            if index % _LOOK_EVERY == 0 and index and time.monotonic() > deadline:
                errors |= dict.fromkeys(range(index, len(events)), HeldBackError(_LATE))
                rows += events.rows[index:]
                break
            try:
                rows.append(self._converted(row, refused, deadline))
            except (PermanentError, TransientError) as error:
                errors[index] = error
                rows.append(row)
        if time.monotonic() > deadline + self._seconds:
            # The lease may be over by the time that these are published.
            errors = dict.fromkeys(range(len(events)), HeldBackError(_LATE))
        return (Rows(rows) if rows else events), errors

    def close(self) -> None:
        """Close the connection to the registry; idempotent."""
        self._registry.close()

    def _converted(
        self, row: Row, refused: dict[tuple[object, ...], Error], deadline: float
    ) -> Row:
        kind: tuple[object, ...] = (row[TYPE], row[VERSION], row[CONTENT_TYPE])
        if self._template is not None:
            kind = (*kind, row[SOURCE], row[TOPIC])
            if self._template.depends_on_event:
                kind = (*kind, self._template.topic(to_envelope(row)))
        if kind in refused:
            raise refused[kind]
        if kind in self._writers:
            writer = self._writers[kind]
        else:
            try:
                writer = self._writers[kind] = self._writer(row, refused, deadline)
            except (PermanentError, TransientError) as error:
                refused[kind] = error
                raise
        if writer is None:
            return row
        try:
            data = writer.head + writer.codec.encode(row[DATA])
        except MisfitError as misfit:
            which = "the last version" if writer.number is None else f"version {writer.number}"
            raise RecordRefusedError(
                f"the event does not fit {which} of the subject {writer.subject!r}: {misfit}"
            ) from misfit
        except UnusableSchemaError as exc:
            refused[kind] = _unusable(writer.subject, exc)
            raise refused[kind] from exc
        return (*row[:CONTENT_TYPE], writer.media, data, *row[DATA + 1 :])  # type: ignore[return-value]  # the same columns

    def _writer(
        self, row: Row, refused: Mapping[tuple[object, ...], Error], deadline: float
    ) -> Writer | None:
        """Find out how a kind of events is written; None where as it was emitted."""
        event_type = row[TYPE].decode()
        name = self._settings.format_of(event_type)
        if name == "json" or not is_json(row[CONTENT_TYPE].decode()):
            return None
        for error in refused.values():
            # Asked again, each kind would wait for a registry that does not answer.
            if isinstance(error, BrokerUnavailableError):
                raise error
        if time.monotonic() > deadline:
            raise BrokerUnavailableError("the schema registry was too slow; it is asked again")
        topic = None if self._template is None else self._template.topic(to_envelope(row))
        subject = self._settings.subject_of(event_type, topic)
        is_latest = self._settings.versions == "latest"
        number = None if is_latest else row[VERSION]
        ready = self._ready(subject, number)
        if ready.schema.format != name:
            raise DestinationRefusedError(
                f"the subject {subject!r} has a schema of the format {ready.schema.format}, and"
                f" {event_type} is to be written as {name}: correct `format` or `formats`"
            )
        media = MEDIA_TYPES[name].encode()
        return Writer(ready.codec, head_of(ready.schema.id), media, subject, number)

    def _ready(self, subject: str, number: int | None) -> Ready:
        try:
            if number is None:
                return self._registry.latest(subject)
            return self._registry.version(subject, number)
        except ConfigurationError as exc:
            raise _unusable(subject, exc) from exc


def _unusable(subject: str, error: ConfigurationError) -> DestinationRefusedError:
    """Say that nothing can be written by a schema: its events wait, and those of others go on."""
    return DestinationRefusedError(
        f"the subject {subject!r} has a schema that nothing can be written by: {error}"
    )
