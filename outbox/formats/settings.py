"""The settings `[routes.NAME.schemas]`: which events are converted, and by which schemas."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, SecretStr, model_validator

Format = Literal["json", "avro", "protobuf", "jsonschema"]


class SchemaSettings(BaseModel):
    """How the data of a route's events is written, and read by its workers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    registry: HttpUrl
    """Where a registry with the interface of Confluent's answers, for instance
    `https://registry:8081` or `http://apicurio:8080/apis/ccompat/v7`."""
    format: Format = "json"
    """Of events whose type matches none of `formats`; `json` is data as it was emitted."""
    formats: dict[str, Format] = {}
    """Formats by globs over the type; the first one that matches counts."""
    subject: Literal["record", "topic", "topic-record"] = "record"
    """What a schema is called in the registry: the record's name, the topic with `-value`, or
    both with a hyphen, as Confluent's strategies of these names have it."""
    records: dict[str, Annotated[str, Field(min_length=1)]] = {}
    """The record's name by event type, where it is not the type itself."""
    versions: Literal["same", "latest"] = "same"
    """Which version of a subject an event is written by: that of its own number, or the last."""
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = None
    """PEM file that the registry's certificate is checked against; by default the system's."""
    certificate_file: Path | None = None
    """PEM file of the client's own certificate, where the registry asks for one."""
    key_file: Path | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password need each other")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file need each other")
        return self

    def format_of(self, event_type: str) -> Format:
        """Return the format of an event type."""
        for glob, found in self.formats.items():
            if fnmatchcase(event_type, glob):
                return found
        return self.format

    def subject_of(self, event_type: str, topic: str | None) -> str:
        """Return what the schema of an event type is called; `topic` counts where it is in it."""
        record = self.records.get(event_type, event_type)
        match self.subject:
            case "record":
                return record
            case "topic":
                return f"{topic}-value"
            case "topic-record":
                return f"{topic}-{record}"
