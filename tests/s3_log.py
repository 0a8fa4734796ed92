"""What the log of a bucket lists, read without the code under test's reader."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from typing import TYPE_CHECKING

import zstandard

if TYPE_CHECKING:
    from tests.fix_s3 import Bucket


def unpacked(key: str, body: bytes) -> bytes:
    if key.endswith(".gz"):
        return gzip.decompress(body)
    return zstandard.ZstdDecompressor().decompress(body) if key.endswith(".zst") else body


def listed(bucket: Bucket) -> dict[str, list[str]]:
    """Ids by partition key, in the order of the log, each as often as it is listed."""
    found: dict[str, list[str]] = defaultdict(list)
    for key in bucket.object_keys("_log/"):
        entry = json.loads(bucket.read(key))
        lines = [_events(name, bucket.read(name)) for name, _size in entry["objects"]]
        for _topic, number, line, _hash in entry["events"]:
            event = json.loads(lines[number][line])
            found[event.get("partitionkey", "")].append(event["id"])
    return found


def stored(bucket: Bucket) -> list[str]:
    """Ids of the events in all objects, listed or not, in order."""
    return sorted(
        json.loads(line)["id"]
        for key in bucket.data_keys()
        for line in _events(key, bucket.read(key))
    )


def _events(key: str, body: bytes) -> list[bytes]:
    """Return the events of an object: one in several lines, or one in each."""
    whole = unpacked(key, body)
    return whole.splitlines() if ".jsonl" in key else [whole]
