"""A schema registry, asked through the client of confluent-kafka; what it said once stays."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx2
from confluent_kafka.schema_registry import Schema as Registered
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    DecodeError,
    DestinationRefusedError,
    TransientError,
)
from outbox.formats.codec import FORMATS, Schema, UnusableSchemaError, make

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.formats.codec import Codec
    from outbox.formats.settings import SchemaSettings

LATEST_SECONDS: Final = 30.0
"""How long the last version of a subject counts as the last one."""
_UNAUTHORISED: Final = frozenset({401, 403})
_ABSENT: Final = 404
_UNFIT: Final = frozenset({409, 422})
"""Not compatible with what is there, or no schema at all."""
_NO_VERSION: Final = 40402
_NOBODYS: Final = "outbox-doctor-"
"""What no subject begins with, so that few are listed."""
_DEPTH: Final = 20
"""Of schemas that name each other, at most."""


class Ready:
    """A schema and what was made of it."""

    __slots__ = ("codec", "schema")

    def __init__(self, schema: Schema, codec: Codec) -> None:
        self.schema = schema
        self.codec = codec


class _AbsentError(DestinationRefusedError):
    """The registry has no such thing; what that means depends on what was asked for."""

    def __init__(self, why: str, error: SchemaRegistryError) -> None:
        super().__init__(why)
        self.code = error.error_code


class Registry:
    """Answers from memory, or asks; may be used from several threads.

    Its methods raise `BrokerUnavailableError` where the registry does not answer, and
    `DestinationRefusedError` where it does not have what is asked for, or refuses the login.
    Where it has a schema that nothing can be written by, `version` and `latest` raise
    `UnusableSchemaError`, and `by_id` raises `DecodeError`: the event alone cannot be read.
    """

    def __init__(self, where: str, settings: SchemaSettings, timeout: float) -> None:
        """Take the name of the settings, for errors, and the seconds that one request may take."""
        self._where = where
        self._url = str(settings.registry).rstrip("/")
        self._client = _client(self._url, where, settings, timeout)
        # Without a lock: what two threads ask for at once is asked for twice, and is the same; none
        # waits for what another one asks.
        self._by_subject: dict[tuple[str, int], Ready] = {}
        self._latest: dict[str, tuple[float, Ready]] = {}
        self._by_id: dict[int, Ready] = {}

    def version(self, subject: str, number: int) -> Ready:
        """Return a version of a subject; it never changes."""
        known = self._by_subject.get((subject, number))
        if known is None:
            known = self._by_subject[subject, number] = self._ask(subject, number)
        return known

    def latest(self, subject: str) -> Ready:
        """Return the last version of a subject, as it was some seconds ago."""
        until, known = self._latest.get(subject, (0.0, None))
        if known is None or time.monotonic() > until:
            known = self._ask(subject, None)
            self._latest[subject] = (time.monotonic() + LATEST_SECONDS, known)
        return known

    def by_id(self, number: int) -> Ready:
        """Return a schema by its id; raises `DecodeError` where none can be read by."""
        known = self._by_id.get(number)
        if known is None:
            found = self._request(number)
            try:
                known = self._ready(number, found)
            except UnusableSchemaError as exc:
                raise DecodeError(f"its data cannot be read: {exc}") from exc
        return known

    def ping(self) -> None:
        """Return where the registry answers."""
        with self._asking():
            self._client.get_subjects(subject_prefix=_NOBODYS)

    def versions(self, subject: str) -> list[int]:
        """Return the versions of a subject; none where there is no such subject."""
        try:
            with self._asking():
                return list(self._client.get_versions(subject))
        except _AbsentError:
            return []

    def lookup(self, subject: str, text: str, kind: str) -> tuple[int, int] | None:
        """Return the id and the version of a schema of a subject; None where it is not there."""
        try:
            with self._asking():
                found = self._client.lookup_schema(subject, Registered(text, kind))
        except _AbsentError:
            return None
        return found.schema_id, found.version

    def register(self, subject: str, text: str, kind: str, origin: str) -> tuple[int, int]:
        """Add a schema to a subject; return its id and version.

        Raises `ConfigurationError` that names its origin, where the registry does not take it.
        """
        with self._asking():
            try:
                self._client.register_schema(subject, Registered(text, kind))
            except SchemaRegistryError as exc:
                if exc.http_status_code not in _UNFIT:
                    raise
                raise ConfigurationError(
                    f"{origin}: the schema registry does not take it as a version of {subject!r}:"
                    f" {exc.error_message}"
                ) from exc
        found = self.lookup(subject, text, kind)
        if found is None:
            raise BrokerUnavailableError(f"the schema registry {self._url} forgot {subject!r}")
        return found

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._client.close()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Make this library's errors of those of the client."""
        try:
            yield
        except SchemaRegistryError as exc:
            raise self._translated(exc) from exc
        except (httpx2.HTTPError, OSError) as exc:
            # The text of some is empty.
            why = str(exc) or type(exc).__name__
            raise BrokerUnavailableError(
                f"the schema registry {self._url} does not answer: {why}"
            ) from exc

    def _request(self, number: int) -> Any:
        try:
            with self._asking():
                return self._client.get_schema(number)
        except _AbsentError as exc:
            raise DecodeError(
                f"the schema registry {self._url} has no schema {number}, which its data was"
                " written by"
            ) from exc

    def _ask(self, subject: str, number: int | None) -> Ready:
        found = self._registered(subject, number)
        if found.schema_id is None or found.schema is None:
            raise BrokerUnavailableError(f"the schema registry {self._url} answered with nothing")
        known = self._by_id.get(found.schema_id)
        return known or self._ready(found.schema_id, found.schema)

    def _registered(self, subject: str, number: int | None) -> Any:
        try:
            with self._asking():
                if number is None:
                    return self._client.get_latest_version(subject)
                return self._client.get_version(subject, number)
        except _AbsentError as exc:
            what = f"has no subject {subject!r}"
            if exc.code == _NO_VERSION:
                what = f"has no version {number} of {subject!r}"
            raise DestinationRefusedError(
                f"the schema registry {self._url} {what}: register the schema there"
                f" (`outbox registry register`), or correct {self._where}"
            ) from exc

    def _ready(self, number: int, found: Any) -> Ready:
        schema = self._schema(number, found, 0)
        ready = self._by_id[number] = Ready(schema, make(schema, self._where))
        return ready

    def _schema(self, number: int, found: Any, depth: int) -> Schema:
        kind = found.schema_type or "AVRO"
        if kind not in FORMATS:
            raise UnusableSchemaError(
                f"schema {number} is of the kind {kind}; known are {', '.join(FORMATS)}"
            )
        if depth > _DEPTH:
            raise UnusableSchemaError(f"schema {number} refers to itself by way of others")
        references = {}
        for reference in found.references or ():
            other = self._registered(reference.subject, reference.version)
            references[reference.name] = self._schema(other.schema_id, other.schema, depth + 1)
        return Schema(number, FORMATS[kind], found.schema_str or "", references)

    def _translated(self, error: SchemaRegistryError) -> TransientError:
        status = error.http_status_code
        if status == _ABSENT:
            return _AbsentError(
                f"the schema registry {self._url} answers with HTTP {status}, error"
                f" {error.error_code}: correct {self._where}.registry",
                error,
            )
        if status in _UNAUTHORISED:
            return DestinationRefusedError(
                f"the schema registry {self._url} refuses the login: correct {self._where}.username"
                f" and password, or grant the right to read there (HTTP {status})"
            )
        return BrokerUnavailableError(
            f"the schema registry {self._url} answers with HTTP {status}, error {error.error_code}"
        )


def _client(url: str, where: str, settings: SchemaSettings, timeout: float) -> Any:
    config: dict[str, Any] = {
        "url": url,
        "timeout": timeout,
        # Whoever asks waits for an outage by itself, and tells of it.
        "max.retries": 0,
    }
    if settings.username is not None and settings.password is not None:
        config["basic.auth.user.info"] = (
            f"{settings.username}:{settings.password.get_secret_value()}"
        )
    for name, path in (
        ("ssl.ca.location", settings.ca_file),
        ("ssl.certificate.location", settings.certificate_file),
        ("ssl.key.location", settings.key_file),
    ):
        if path is not None:
            config[name] = str(path)
    try:
        return SchemaRegistryClient(config)
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{where}: the client cannot be made: {exc}") from exc
