"""How far a trail was verified, in a file: to go on from there, and to notice what has changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import orjson

from outbox.audit.chain import LAST_POSITION, START, Anchor, Head
from outbox.audit.record import HASH_BYTES
from outbox.audit.small import read_small
from outbox.codec import time_text
from outbox.errors import ConfigurationError
from outbox.files import replacement

if TYPE_CHECKING:
    from pathlib import Path

FORMAT: Final = "outbox-audit-checkpoint/1"


def read_checkpoint(path: Path) -> Anchor:
    """Return what was verified last, the start where the file is not there yet.

    Raises `ConfigurationError` where it is something else.
    """
    try:
        text = read_small(path)
    except FileNotFoundError:
        return Anchor(START, "nothing")
    except OSError as exc:
        raise ConfigurationError(f"cannot read the checkpoint {path}: {exc.strerror}") from exc
    try:
        found = orjson.loads(text)
        head = Head(found["position"], bytes.fromhex(found["hash"]))
        is_head = type(head.position) is int and len(head.hash) == HASH_BYTES
        is_ours = found["format"] == FORMAT and is_head and 0 <= head.position <= LAST_POSITION
        when = str(found["verified_at"])
    except (KeyError, TypeError, ValueError):
        is_ours = False
    if not is_ours:
        raise ConfigurationError(f"{path} is no checkpoint of `outbox audit verify`")
    return Anchor(head, f"what was verified at {when}")


def write_checkpoint(path: Path, head: Head) -> None:
    """Store how far it was verified, all of it or nothing; raises `ConfigurationError`."""
    members = {
        "format": FORMAT,
        "position": head.position,
        "hash": head.hash.hex(),
        "verified_at": time_text(datetime.now(UTC)),
    }
    try:
        with replacement(path) as begun:
            begun.write_bytes(orjson.dumps(members, option=orjson.OPT_INDENT_2) + b"\n")
    except OSError as exc:
        raise ConfigurationError(f"cannot write the checkpoint {path}: {exc.strerror}") from exc
