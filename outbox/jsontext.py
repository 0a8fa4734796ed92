"""Reads JSON that anybody may have written: leniently what was stored, strictly what is proof.

What a database takes is more than the parser does: numbers that no float holds, half of a surrogate
pair, a thousand levels. One such row must not hold up every event behind it.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

import orjson

UNREADABLE: Final = "unreadable"
"""The name under which an object that nothing can read stands as it is."""
_DIGITS: Final = 18
"""So many fit into 64 bits."""


def read_object(stored: bytes | str) -> dict[str, Any]:
    """Return the object; too large numbers as their text, half a letter as `?`."""
    try:
        found: dict[str, Any] = orjson.loads(stored)
    except orjson.JSONDecodeError:
        return _read_leniently(stored)
    return found


def read_strictly(text: bytes) -> Any:
    """Read JSON that says each thing once (RFC 7493, I-JSON); raises `ValueError` otherwise.

    Of a member that stands there twice, readers choose one or the other.
    """
    found = orjson.loads(text)
    try:
        json.loads(text, object_pairs_hook=_each_once)
    except RecursionError:
        msg = "it is nested too deeply"
        raise ValueError(msg) from None
    return found


def _each_once(members: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in members:
        if name in seen:
            msg = f"its member {name!r} stands there twice"
            raise ValueError(msg)
        seen.add(name)


def _read_leniently(stored: bytes | str) -> dict[str, Any]:
    try:
        cleaned: dict[str, Any] = _clean(json.loads(stored, parse_float=_float, parse_int=_int))
    except RecursionError:
        return {UNREADABLE: stored if isinstance(stored, str) else stored.decode()}
    return cleaned


def _float(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _int(text: str) -> int | str:
    return int(text) if len(text) <= _DIGITS else text


def _clean(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="replace").decode() if not value.isascii() else value
        case dict():
            return {_clean(name): _clean(each) for name, each in value.items()}
        case list():
            return [_clean(each) for each in value]
        case _:
            return value
