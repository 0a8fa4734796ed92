"""The page's example of a transport, and a server that it can post to."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from outbox.transport import Delivery, Message
from tests.pages import block, page

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE: Final = "guide/transports.md"
MODULE: Final = "outbox_webhook"
LIMIT: Final = 1_000_000
"""Bytes that the server takes in one request."""
HTTP_ONLY: Final = {"host", "accept-encoding", "content-length"}


def code() -> str:
    return block(page(PAGE), "python", "class WebhookPublisher")


def example() -> Any:
    """Return the page's module."""
    module = ModuleType(MODULE)
    exec(compile(code(), MODULE, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  # a page of ours
    return module


class ReceivingServer:
    """Keeps what is posted, by topic; it may fall silent, or answer with a status."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.status = 204
        self._is_silent = False
        self._changed = threading.Condition()
        self._start(0)

    def _start(self, port: int) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    def restart(self) -> None:
        """Begin again at the same address, with the messages that were kept."""
        port = self._http.server_port
        self.close()
        self._start(port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/events"

    def topic(self, name: str) -> list[Message]:
        with self._changed:
            return [message for message in self.messages if message.topic == name]

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Answer nobody, and keep nothing, until the block ends."""
        with self._changed:
            self._is_silent = True
        try:
            yield
        finally:
            with self._changed:
                self._is_silent = False
                self._changed.notify_all()

    def wait(self, topic: str, count: int, timeout: float) -> None:
        """Wait until a topic has more messages than this."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.topic(topic)) > count, timeout)

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def take(self, message: Message) -> int | None:
        """Return the status to answer with, None for none."""
        with self._changed:
            if self._is_silent:
                self._changed.wait_for(lambda: not self._is_silent)
                return None
            if len(message.data) > LIMIT:
                return 413
            if self.status < 300:
                self.messages.append(message)
                self._changed.notify_all()
            return self.status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                status = server.take(_message(self.path, self.headers.items(), data))
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name
                """Say nothing."""

        return Handler


def _message(path: str, headers: Sequence[tuple[str, str]], data: bytes) -> Message:
    found = {
        name.lower(): unquote_to_bytes(value)
        for name, value in headers
        if name.lower() not in HTTP_ONLY
    }
    key = found.pop("ce-partitionkey", None)
    named = [(re.sub("^ce-", "ce_", name), value) for name, value in found.items()]
    return Message(path.rpartition("/")[2], key, named, data)


class Received:
    """What a server got under a topic, as a subscriber would give it."""

    def __init__(self, server: ReceivingServer, topic: str) -> None:
        self._server = server
        self._topic = topic
        self._count = 0

    def receive(self, limit: int, timeout: float, /) -> Sequence[Delivery]:
        self._server.wait(self._topic, self._count, timeout)
        messages = self._server.topic(self._topic)[self._count : self._count + limit]
        self._count += len(messages)
        return [Delivery(message, "", None) for message in messages]

    def ack(self, deliveries: Sequence[Delivery], /) -> None:
        """Nothing comes again."""

    def nack(self, deliveries: Sequence[Delivery], /) -> None:
        """Nothing is asked to."""

    def close(self) -> None:
        """There is no connection."""
