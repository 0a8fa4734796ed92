"""A proxy before an S3 server that answers some requests itself, or otherwise."""

from __future__ import annotations

import http.client
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


@dataclass
class Proxy:
    """What it does with requests; may be changed while it runs."""

    endpoint_url: str
    refuses: Callable[[str, str], bool] = field(default=lambda _method, _path: False)
    """By method and path; those are answered 503 SlowDown."""
    denies: Callable[[str, str], bool] = field(default=lambda _method, _path: False)
    """By method and path; those are answered 403 AccessDenied."""
    ignores_digests: bool = False
    """Whether a client is told that a write went through whose digest was wrong."""
    ignores_conditions: bool = False
    """Whether a client is told that a conditional write went through that did not."""
    loses: Callable[[str, str], bool] = field(default=lambda _method, _path: False)
    """By method and path; the server does those, but its answer is lost."""
    cuts: Callable[[str, str], bool] = field(default=lambda _method, _path: False)
    """By method and path; those answers break off."""
    refused: int = 0
    seen: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of the same requests, by names in lower case."""

    def hides(self, status: int, content: bytes) -> bool:
        """Tell whether a client hears of success although the server has refused."""
        if status == HTTPStatus.PRECONDITION_FAILED:
            return self.ignores_conditions
        return self.ignores_digests and b"BadDigest" in content


@contextmanager
def proxy(server_url: str) -> Iterator[Proxy]:  # noqa: C901  # a handler and what it answers
    """Run one on a loopback port until the block ends."""
    server = urlsplit(server_url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.seen.append((self.command, self.path))
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            if state.refuses(self.command, self.path):
                state.refused += 1
                self.answer(503, [], SLOW_DOWN)
                return
            if state.denies(self.command, self.path):
                self.answer(403, [], DENIED)
                return
            connection = http.client.HTTPConnection(server.hostname or "", server.port, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if state.loses(self.command, self.path):
                self.close_connection = True
            elif state.hides(answer.status, content):
                self.answer(HTTPStatus.OK, [], b"")
            else:
                is_cut = state.cuts(self.command, self.path)
                self.answer(answer.status, answer.getheaders(), content, is_cut=is_cut)

        def answer(
            self,
            status: int,
            headers: list[tuple[str, str]],
            content: bytes,
            *,
            is_cut: bool = False,
        ) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                    self.send_header(name, value)
            if is_cut:  # the line's end that belongs to the only chunk is not sent
                self.send_header("Transfer-Encoding", "chunked")
                content = b"%x\r\n%b" % (len(content), content)
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    for method in ("GET", "PUT", "DELETE", "HEAD", "POST"):
        setattr(Handler, f"do_{method}", Handler.handle_any)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        state = Proxy(f"http://127.0.0.1:{listening.server_port}")
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield state
        finally:
            listening.shutdown()
            thread.join()
