"""Frames of STOMP 1.2, to and from bytes; pure.

Source: STOMP protocol specification, version 1.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from outbox.errors import OutboxError

if TYPE_CHECKING:
    from collections.abc import Iterable

CONNECTING: Final = frozenset({"CONNECT", "CONNECTED"})
"""Headers of these are not escaped, so that older servers understand them."""
_LONGEST_HEAD: Final = 1_000_000
"""Bytes before the body; more is no frame."""


class FrameError(OutboxError):
    """The bytes are no frame: at the other end is something that does not speak STOMP."""


class Frame(NamedTuple):
    """One frame as it was received."""

    command: str
    headers: dict[str, str]
    """Where a header is repeated, the first one counts."""
    body: bytes


def escape(text: bytes) -> bytes:
    """Write the name or the value of a header."""
    if b"\\" in text:
        text = text.replace(b"\\", b"\\\\")
    if b":" in text:
        text = text.replace(b":", b"\\c")
    if b"\n" in text:
        text = text.replace(b"\n", b"\\n")
    if b"\r" in text:
        text = text.replace(b"\r", b"\\r")
    return text


def encode(command: str, headers: Iterable[tuple[str, str]], body: bytes = b"") -> bytes:
    """Write a frame."""
    quote = bytes if command in CONNECTING else escape
    lines = [quote(name.encode()) + b":" + quote(value.encode()) for name, value in headers]
    return b"\n".join([command.encode(), *lines, b"", body]) + b"\0"


class Parser:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._start = 0
        self._wanted = 0
        """So many bytes are there at least before another look is worth it."""

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        if self._start:
            del self._bytes[: self._start]
            self._wanted = max(0, self._wanted - self._start)
            self._start = 0
        self._bytes += data

    def next(self) -> Frame | None:
        """Return the next frame, None where it is not complete; raises `FrameError`."""
        data = self._bytes
        if len(data) < self._wanted:
            return None
        start = self._start
        # Between frames, line ends are heart-beats.
        while start < len(data) and data[start] in b"\r\n":
            start += 1
        self._start = start
        end = data.find(b"\n\n", start)
        if end < 0:
            if len(data) - start > _LONGEST_HEAD or not data[start : start + 1].isalpha():
                self._require_nothing(start)
            return None
        command, headers = _head(bytes(data[start:end]))
        body = end + 2
        after = self._end_of_body(headers.get("content-length"), body)
        if after is None:
            return None
        self._start = after + 1
        self._wanted = 0
        return Frame(command, headers, bytes(data[body:after]))

    def _end_of_body(self, length: str | None, body: int) -> int | None:
        if length is None:
            end = self._bytes.find(b"\0", body)
            return None if end < 0 else end
        if not length.isdecimal():
            msg = f"a frame has the content-length {length!r}"
            raise FrameError(msg)
        end = body + int(length)
        if len(self._bytes) <= end:
            self._wanted = end + 1
            return None
        if self._bytes[end] != 0:
            raise FrameError("a frame is longer than its content-length")
        return end

    def _require_nothing(self, start: int) -> None:
        if start < len(self._bytes):
            msg = f"these bytes are no frame: {bytes(self._bytes[start : start + 20])!r}"
            raise FrameError(msg)


def _head(head: bytes) -> tuple[str, dict[str, str]]:
    try:
        command, *lines = head.decode().replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as exc:
        raise FrameError("the head of a frame is no UTF-8") from exc
    if not command.isalpha():
        msg = f"a frame begins with {command[:20]!r}"
        raise FrameError(msg)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            msg = f"a frame has the header {line[:40]!r}"
            raise FrameError(msg)
        if "\\" in line and command not in CONNECTING:
            name, value = _unescaped(name), _unescaped(value)
        headers.setdefault(name, value)
    return command, headers


_MEANING: Final = {"\\": "\\", "c": ":", "n": "\n", "r": "\r"}


def _unescaped(text: str) -> str:
    first, *rest = text.split("\\")
    parts = [first]
    pieces = iter(rest)
    for piece in pieces:
        if piece:
            if piece[0] not in _MEANING:
                msg = f"a header has the escape \\{piece[0]}"
                raise FrameError(msg)
            parts.append(_MEANING[piece[0]] + piece[1:])
        else:
            # Two backslashes are one, and what stands behind them is as it is.
            parts.append("\\" + next(pieces, ""))
    return "".join(parts)
