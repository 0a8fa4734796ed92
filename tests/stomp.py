"""A client of STOMP 1.2 that knows nothing of this library: one socket, and frames as text."""

from __future__ import annotations

import socket
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", ":": "\\c"}
_MEANINGS = {"\\\\": "\\", "\\n": "\n", "\\r": "\r", "\\c": ":"}


class Frame(NamedTuple):
    """What a server sent."""

    command: str
    headers: dict[str, str]
    body: bytes


class Stomp:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb")

    def send(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        lines = [f"{_escaped(name)}:{_escaped(value)}" for name, value in headers.items()]
        head = "\n".join([command, *lines, f"content-length:{len(body)}"])
        self._connection.sendall(head.encode() + b"\n\n" + body + b"\0")

    def receive(self) -> Frame:
        """Return the next frame; what it sent has a `content-length`, or no NUL in its body."""
        command = b"\n"
        while command == b"\n":
            command = self._stream.readline()
        headers: dict[str, str] = {}
        while (line := self._stream.readline()) != b"\n":
            name, _, value = line.decode().removesuffix("\n").partition(":")
            headers.setdefault(_meant(name), _meant(value))
        body = self._stream.read(int(headers.get("content-length", 0)))
        assert self._stream.read(1) == b"\0"
        return Frame(command.decode().strip(), headers, body)


@contextmanager
def stomp(address: str) -> Iterator[Stomp]:
    """Be connected to a server while the block lasts."""
    host, _, port = address.rpartition(":")
    with closing(socket.create_connection((host, int(port)), timeout=30)) as connection:
        client = Stomp(connection)
        client.send("CONNECT", {"accept-version": "1.2", "host": "/"})
        assert client.receive().command == "CONNECTED"
        yield client


def _escaped(text: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def _meant(text: str) -> str:
    found, place = "", 0
    while place < len(text):
        pair = text[place : place + 2]
        found += _MEANINGS.get(pair, text[place])
        place += 2 if pair in _MEANINGS else 1
    return found
