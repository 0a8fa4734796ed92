"""What the log of a bucket lists, read without the code under test's reader."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import zstandard

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.fix_s3 import Bucket


def unpacked(key: str, body: bytes) -> bytes:
    if key.endswith(".gz"):
        return gzip.decompress(body)
    return zstandard.ZstdDecompressor().decompress(body) if key.endswith(".zst") else body


def in_log(bucket: Bucket) -> list[dict[str, Any]]:
    """All events in the order of the log, each as often as it is listed."""
    entries = [json.loads(body) for body in _bodies(bucket, bucket.object_keys("_log/"))]
    names = [[name for name, _size in entry["objects"]] for entry in entries]
    all_names = list(dict.fromkeys(name for each in names for name in each))
    lines = {
        name: _events(name, body)
        for name, body in zip(all_names, _bodies(bucket, all_names), strict=True)
    }
    return [
        json.loads(lines[objects[number]][line])
        for entry, objects in zip(entries, names, strict=True)
        for _topic, number, line, _hash in entry["events"]
    ]


def listed(bucket: Bucket) -> dict[str, list[str]]:
    """Ids by partition key, in the order of the log, each as often as it is listed."""
    found: dict[str, list[str]] = defaultdict(list)
    for event in in_log(bucket):
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


def _bodies(bucket: Bucket, keys: Iterable[str]) -> list[bytes]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(bucket.read, keys))
