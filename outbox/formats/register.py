"""Schemas from files to a registry: `<type>.v<version>.avsc`, `.proto` or `.json`.

They are registered by whoever deploys, never by an application or a relay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from outbox.errors import ConfigurationError
from outbox.formats.codec import FORMATS, Schema, make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from outbox.formats.registry import Registry
    from outbox.formats.settings import Format, SchemaSettings

_NAME: Final = re.compile(r"(?P<type>[A-Za-z0-9_.-]+)\.v(?P<version>[1-9][0-9]{0,8})")
_SUFFIXES: Final[dict[str, Format]] = {
    ".avsc": "avro",
    ".proto": "protobuf",
    ".json": "jsonschema",
}
_KINDS: Final = {name: kind for kind, name in FORMATS.items()}


@dataclass(frozen=True, slots=True)
class SchemaFile:
    """The schema of one version of an event type, in a file."""

    path: Path
    event_type: str
    version: int
    format: Format


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of a file."""

    file: SchemaFile
    subject: str
    version: int
    """Of the subject."""
    id: int
    state: Literal["registered", "was there"]


def find(paths: Iterable[Path]) -> list[SchemaFile]:
    """Return the schemas in files, and in folders, in the order in which versions follow.

    Other files of a folder are left alone. Raises `ConfigurationError` where there is no such
    file, one that is named has another name, or none is left.
    """
    found: list[SchemaFile] = []
    for path in paths:
        if path.is_dir():
            read = [_read(each) for each in sorted(path.iterdir()) if each.is_file()]
            found += [each for each in read if each is not None]
            continue
        if not path.is_file():
            raise ConfigurationError(f"there is no file {path}")
        one = _read(path)
        if one is None:
            raise ConfigurationError(
                f"the name of {path} does not say what it is: write for instance"
                " shop.order.placed.v1.avsc, .proto or .json"
            )
        found.append(one)
    if not found:
        raise ConfigurationError(
            "no file is called for instance shop.order.placed.v1.avsc, .proto or .json"
        )
    return sorted(found, key=lambda each: (each.event_type, each.version))


def wanted(files: Sequence[SchemaFile], settings: SchemaSettings) -> list[SchemaFile]:
    """Return the files whose format is the one that the route writes their event type in."""
    return [each for each in files if settings.format_of(each.event_type) == each.format]


def register(
    file: SchemaFile,
    settings: SchemaSettings,
    registry: Registry,
    topic_of: Callable[[str], str | None],
) -> Registered:
    """Register one schema, or find that it is there.

    Raises `ConfigurationError` where it is no schema, does not follow what is registered, or the
    registry refuses it; and as `Registry`.
    """
    text = _text(file.path)
    make(Schema(0, file.format, text, name=str(file.path)), str(file.path))
    topic = topic_of(file.event_type)
    if topic is None and settings.subject != "record":
        raise ConfigurationError(
            f"{file.path}: the topic of {file.event_type} depends on more than its type, and so"
            " would the subject; use subject = 'record'"
        )
    subject = settings.subject_of(file.event_type, topic)
    known = registry.lookup(subject, text, _KINDS[file.format])
    if known is None and settings.versions == "same":
        _check_order(file, subject, registry.versions(subject))
    state: Literal["registered", "was there"] = "was there"
    if known is None:
        known = registry.register(subject, text, _KINDS[file.format], str(file.path))
        state = "registered"
    number, version = known
    if settings.versions == "same" and version != file.version:
        raise ConfigurationError(
            f"{file.path}: version {version} of the subject {subject!r} is this very schema, so"
            f" it cannot be version {file.version} as well; change it, or set versions = 'latest'"
        )
    return Registered(file, subject, version, number, state)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{path} is no text in UTF-8: {exc.reason}") from exc
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be read: {exc.strerror}") from exc


def _check_order(file: SchemaFile, subject: str, versions: Sequence[int]) -> None:
    following = max(versions, default=0) + 1
    if file.version in versions:
        raise ConfigurationError(
            f"{file.path}: version {file.version} of the subject {subject!r} is another schema;"
            " a version that is registered never changes, so make a new one"
        )
    if file.version != following:
        raise ConfigurationError(
            f"{file.path}: the next version of the subject {subject!r} is {following}, and a"
            " registry counts by itself: register the versions of an event in their order"
        )


def _read(path: Path) -> SchemaFile | None:
    found = _NAME.fullmatch(path.stem)
    if found is None or path.suffix not in _SUFFIXES:
        return None
    return SchemaFile(path, found["type"], int(found["version"]), _SUFFIXES[path.suffix])
