"""Where seals are kept: anywhere but in the table that they vouch for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from outbox.audit.seal import Seal, SealError, read_seal
from outbox.audit.small import read_small
from outbox.errors import ConfigurationError
from outbox.files import draft
from outbox.jsontext import read_strictly

if TYPE_CHECKING:
    from collections.abc import Iterable

PATTERN: Final = "seal-*.json"
S3: Final = "s3://"


class Place(Protocol):
    """Keeps seals; what is there is never overwritten."""

    def read(self) -> list[Seal]:
        """Return the seals there are; raises `SealError`."""
        ...

    def series(self) -> list[Seal]:
        """Return the seals that one more here would follow; raises `SealError`."""
        ...

    def write(self, seal: Seal) -> str:
        """Keep one more, and return the name that it has there; raises `SealError`."""
        ...


def name_of(seal: Seal) -> str:
    """Return the name of a seal's file: names sort as the seals do."""
    return f"seal-{seal.number:08}.json"


def to_text(seal: Seal) -> bytes:
    """Return the text of a seal's file."""
    return orjson.dumps(seal.to_json(), option=orjson.OPT_INDENT_2) + b"\n"


def of_text(text: bytes, origin: str) -> Seal:
    """Read the text of a seal's file; raises `SealError` that names its origin."""
    try:
        found = read_strictly(text)
    except orjson.JSONDecodeError as exc:
        raise SealError(f"{origin} is no seal: it is no JSON") from exc
    except ValueError as exc:
        raise SealError(f"{origin} is no seal: {exc}") from exc
    return read_seal(found, origin)


class Folder:
    """Seals as files of a folder, which is made where it is not there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Seal]:
        """See `Place.read`."""
        return [_read(path) for path in sorted(self._path.glob(PATTERN))]

    series = read

    def write(self, seal: Seal) -> str:
        """See `Place.write`."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise SealError(f"cannot make the folder {self._path}: {exc.strerror}") from exc
        return _write(self._path / name_of(seal), seal)


class File:
    """One seal in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Seal]:
        """See `Place.read`."""
        return [_read(self._path)]

    def series(self) -> list[Seal]:
        """See `Place.series`: a file is of one seal, and is never overwritten."""
        return []

    def write(self, seal: Seal) -> str:
        """See `Place.write`."""
        return _write(self._path, seal)


def place_of(text: str) -> Place:
    """Return the place that a path means: a folder, or a file whose name ends in `.json`.

    `s3://bucket/prefix` is the same in a bucket. Raises `ConfigurationError` where it cannot be.
    """
    if text.startswith(S3):
        return _bucket(text)
    path = Path(text)
    is_file = path.is_file() or (path.suffix == ".json" and not path.is_dir())
    return File(path) if is_file else Folder(path)


def read_all(places: Iterable[str]) -> list[Seal]:
    """Return the seals of some places; raises `SealError` where one has none."""
    found: list[Seal] = []
    for text in places:
        seals = place_of(text).read()
        if not seals:
            raise SealError(f"there is no seal in {text}: `outbox audit seal` makes one")
        found += seals
    return found


def _bucket(url: str) -> Place:
    try:
        from outbox.audit.bucket import Bucket  # noqa: PLC0415  # an optional dependency
    except ImportError as exc:
        msg = f"{url} needs {exc.name}: pip install 'outbox-relay[s3]'"
        raise ConfigurationError(msg) from exc
    return Bucket(url)


def _read(path: Path) -> Seal:
    try:
        return of_text(read_small(path), str(path))
    except OSError as exc:
        raise SealError(f"cannot read the seal {path}: {exc.strerror}") from exc


def _sync_folder(path: Path) -> None:
    """Let the name of a new file outlive a power cut, as the file does."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, seal: Seal) -> str:
    """Write a whole file or none, and never over another one."""
    try:
        with draft(path) as begun:
            with begun.open("wb") as file:
                file.write(to_text(seal))
                file.flush()
                os.fsync(file.fileno())
            os.link(begun, path)
        _sync_folder(path.parent)
    except FileExistsError as exc:
        raise SealError(f"{path} is there already, and a seal is never overwritten") from exc
    except OSError as exc:
        raise SealError(f"cannot write the seal {path}: {exc.strerror}") from exc
    return str(path)
