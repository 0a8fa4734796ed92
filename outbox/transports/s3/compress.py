"""The compression of objects."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Final, Literal

import zstandard

if TYPE_CHECKING:
    from collections.abc import Mapping

Compression = Literal["none", "gzip", "zstd"]

SUFFIXES: Final[Mapping[Compression, str]] = {"none": "", "gzip": ".gz", "zstd": ".zst"}
"""By which a reader knows how an object is compressed, whatever the route's setting is now."""
_LEVEL: Final = 6
"""Of gzip: the last one that gains something for its time."""


def compress(body: bytes, how: Compression) -> bytes:
    """Return a body as it is stored; equal bodies give equal bytes."""
    if how == "gzip":
        return gzip.compress(body, _LEVEL, mtime=0)
    if how == "zstd":
        return zstandard.ZstdCompressor(write_content_size=True).compress(body)
    return body


def decompress(stored: bytes, key: str) -> bytes:
    """Return the body of an object; raises `ValueError` where it is damaged."""
    try:
        if key.endswith(SUFFIXES["gzip"]):
            return gzip.decompress(stored)
        if key.endswith(SUFFIXES["zstd"]):
            return zstandard.ZstdDecompressor().decompress(stored)
    except (OSError, EOFError, zstandard.ZstdError) as exc:
        raise ValueError(f"{key} cannot be decompressed: {exc}") from exc
    return stored
