"""An entry of the log: what one publish stored, in order, and how far its route has come.

    {"version": 1, "nonce": "…", "identity": "…", "progress": "…", "latest": {"…": 41},
     "topics": ["shop.order"], "objects": [["shop.order.placed/…/….json", 311]],
     "events": [[0, 0, 0, 2829192]], "replayed": {"2026-05-01T12:00:00Z": [0]}}

An event is four numbers: its topic, its object, its line there, and the CRC-32 of its partition
key. `latest` says for each route that ever wrote to the log which entry has its last progress.
`replayed`, where there is such a thing, has the places of events that a replay sent again.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from outbox.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSION: Final = 1


class Listed(NamedTuple):
    """One event of an entry."""

    topic: int
    object: int
    line: int
    hash: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry; immutable."""

    nonce: str
    """Tells entries of one writer from those of any other."""
    identity: str | None = None
    """Of the route that wrote it, where its publisher took the route over."""
    progress: bytes | None = None
    latest: Mapping[str, int] = field(default_factory=dict)
    topics: Sequence[str] = ()
    objects: Sequence[tuple[str, int]] = ()
    """Key below the prefix, and bytes as stored."""
    events: Sequence[Listed] = ()
    replayed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Places in `events` of what a replay sent again, by when it began. That is no part of an
    object, which may be listed by an earlier entry as well."""

    def to_bytes(self) -> bytes:
        """Write it as JSON."""
        progress = None if self.progress is None else base64.b64encode(self.progress).decode()
        content = {
            "version": VERSION,
            "nonce": self.nonce,
            "identity": self.identity,
            "progress": progress,
            "latest": dict(self.latest),
            "topics": self.topics,
            "objects": self.objects,
            "events": [tuple(event) for event in self.events],
        }
        if self.replayed:
            content["replayed"] = dict(self.replayed)
        return orjson.dumps(content)


def read_entry(stored: bytes) -> Entry:
    """Read an entry; raises `DecodeError` where it is none of this version."""
    try:
        found: dict[str, Any] = orjson.loads(stored)
        if found["version"] != VERSION:
            raise DecodeError(f"the log has an entry of version {found['version']}, not {VERSION}")
        progress = found["progress"]
        return Entry(
            nonce=found["nonce"],
            identity=found["identity"],
            progress=None if progress is None else base64.b64decode(progress),
            latest=found["latest"],
            topics=found["topics"],
            objects=[(key, size) for key, size in found["objects"]],
            events=[Listed(*event) for event in found["events"]],
            replayed=dict(found.get("replayed", {})),
        )
    except (KeyError, TypeError, ValueError, binascii.Error) as exc:
        raise DecodeError(f"the log has an entry that cannot be read: {exc!r}") from exc
