"""Finds the schemas that were written down before: in a folder, or in a revision of git."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outbox.errors import ConfigurationError
from outbox.schema.document import SUFFIX, TYPE, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_FOLDER: Final = "./schemas"
"""Where schemas are in a revision whose path is not given, from the current folder."""


@dataclass(frozen=True, slots=True)
class StoredSchema:
    """One document, and where it is."""

    name: str
    """The event type."""
    version: int
    schema: dict[str, Any]
    place: str


def read(source: str) -> list[StoredSchema]:
    """Return the schemas in a folder, or in a revision of git (`REVISION` or `REVISION:FOLDER`).

    A folder of that name wins. Raises `ConfigurationError` where there is neither, or a file there
    is no schema of an event type.
    """
    files = _in_folder(Path(source)) if Path(source).is_dir() else _in_revision(source)
    found = [_parse(place, text) for place, text in files]
    places: dict[tuple[str, int], str] = {}
    for each in found:
        known = places.setdefault((each.name, each.version), each.place)
        if known != each.place:
            raise ConfigurationError(
                f"{each.name} v{each.version} is in two files: {known} and {each.place}"
            )
    return sorted(found, key=lambda each: (each.name, each.version))


def _in_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            yield str(path), path.read_bytes()
        except OSError as exc:
            raise ConfigurationError(f"{path} cannot be read: {exc.strerror}") from exc


def _in_revision(source: str) -> Iterator[tuple[str, bytes]]:
    revision, _, folder = source.partition(":")
    if revision.startswith("-") or not revision:
        raise ConfigurationError(f"{source!r} is neither a folder nor a revision of git")
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise ConfigurationError(
            f"{source!r} is neither a folder nor a revision of git here; give the folder of"
            " `outbox schema export`, or for instance origin/main:schemas"
        )
    tree = f"{commit.decode().strip()}:{folder or DEFAULT_FOLDER}"
    listed = _git("ls-tree", "-z", "--full-tree", "--name-only", tree)
    if listed is None:
        raise ConfigurationError(
            f"there is no folder {folder or DEFAULT_FOLDER!r} in the revision {revision!r}: write"
            f" {revision}:FOLDER from the root of the repository, {revision}:./FOLDER from here"
        )
    for name in sorted(listed.decode(errors="surrogateescape").split("\0")):
        if name.endswith(SUFFIX):
            yield f"{source}/{name}", _git("cat-file", "blob", f"{tree.rstrip('/')}/{name}") or b""


def _git(*arguments: str) -> bytes | None:
    """Return what git says, or None where it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)  # noqa: S603, S607  # its arguments are one revision, which is no option
    except FileNotFoundError:
        raise ConfigurationError("git is not installed: compare with a folder") from None
    return done.stdout if done.returncode == 0 else None


def _parse(place: str, text: bytes) -> StoredSchema:
    try:
        schema = json.loads(text)
    except ValueError as exc:
        raise ConfigurationError(f"{place} is not JSON: {exc}") from exc
    name = schema.get(TYPE) if isinstance(schema, dict) else None
    version = schema.get(VERSION) if isinstance(schema, dict) else None
    if not isinstance(name, str) or not isinstance(version, int):
        raise ConfigurationError(
            f"{place} is no schema of an event type: it has no {TYPE} and {VERSION}; keep the files"
            " of `outbox schema export` in a folder of their own"
        )
    return StoredSchema(name, version, schema, place)
