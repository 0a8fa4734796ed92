"""One connection to one broker: frames out, frames in, and heart-beats from a thread of its own.

The socket never blocks, so every wait ends at its deadline, and nothing is read that nobody asked
for: what a worker has not taken yet stays in the broker and in the network's buffers.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from outbox.errors import BrokerUnavailableError, TransientError
from outbox.transports.activemq.errors import (
    ErrorFrameError,
    HandshakeTimeoutError,
    LateError,
    no_stomp,
    refused_login,
    unreachable,
)
from outbox.transports.activemq.frames import Frame, FrameError, Parser, encode

if TYPE_CHECKING:
    from outbox.transports.activemq.options import Options

_READ_BYTES: Final = 1 << 18
_BEAT: Final = b"\n"
_GRACE: Final = 2.0
"""So many times the agreed interval may pass without a sign from the broker."""
_HOST: Final = "/"
_BOTH: Final = select.POLLIN | select.POLLOUT
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Link:
    """A connection that the broker has accepted; one thread at a time uses it.

    Everything raises `TransientError` where the connection is broken, and `ErrorFrameError`
    where the broker says so; afterwards it can only be closed.
    """

    def __init__(
        self,
        route: str,
        options: Options,
        address: tuple[str, int],
        context: ssl.SSLContext | None,
        deadline: float,
    ) -> None:
        """Connect and log in; raises `TransientError`."""
        self.address = f"{address[0]}:{address[1]}"
        self._route = route
        self._is_encrypted = context is not None
        self._parser = Parser()
        self._frames: deque[Frame] = deque()
        # Two threads write, and OpenSSL wants one at a time.
        self._lock = threading.Lock()
        self._is_sending = False
        self._heard_at = time.monotonic()
        self._silent_seconds: float | None = None
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None
        try:
            self._socket = _connect(address, context, deadline)
        except OSError as exc:
            raise unreachable(exc, route, self.address) from exc
        try:
            self._log_in(options, deadline)
        except BaseException:
            self.close()
            raise

    def send(self, data: bytes, deadline: float) -> None:
        """Write everything; `BrokerUnavailableError` where the broker does not take it in time."""
        view = memoryview(data)
        with self._lock:
            self._is_sending = True
        while view:
            with self._lock:
                sent = self._write(view)
            view = view[sent:]
            # While the broker waits until we read, it may not read either.
            if view and not sent and not self._read() and not self._wait(deadline, _BOTH):
                raise LateError(f"{self.address} takes nothing more")
        with self._lock:
            self._is_sending = False

    def receive(self, deadline: float) -> Frame | None:
        """Return the next frame, None where none came in time; an ERROR frame is raised."""
        while not self._frames:
            if not self._read() and not self._frames:
                self._check_alive()
                if not self._wait(deadline, select.POLLIN):
                    return None
        frame = self._frames.popleft()
        if frame.command == "ERROR":
            raise ErrorFrameError(frame)
        return frame

    def await_receipt(self, receipt: str, deadline: float) -> None:
        """Wait for one receipt, and drop what comes before it; raises where it does not come."""
        while True:
            frame = self.receive(deadline)
            if frame is None:
                raise LateError(f"{self.address} does not answer in time")
            if frame.command == "RECEIPT" and frame.headers.get("receipt-id") == receipt:
                return

    def close(self) -> None:
        """End the connection; idempotent. What was under way is not waited for."""
        self._stop.set()
        with self._lock:
            self._socket.close()
        if self._beating is not None:
            self._beating.join()

    def _log_in(self, options: Options, deadline: float) -> None:
        beat = round(options.heart_beat_seconds * 1000)
        headers = [("accept-version", "1.2"), ("host", _HOST), ("heart-beat", f"{beat},{beat}")]
        if options.username is not None:
            headers.append(("login", options.username))
        if options.password is not None:
            headers.append(("passcode", options.password.get_secret_value()))
        self.send(encode("CONNECT", headers), deadline)
        try:
            frame = self._first(deadline)
        except ErrorFrameError as error:
            raise refused_login(error.frame, self._route, self.address) from None
        if frame.command != "CONNECTED":
            why = f"it answers with {frame.command}"
            raise no_stomp(self._route, self.address, why, is_encrypted=self._is_encrypted)
        self._agree(frame.headers.get("heart-beat", "0,0"), beat)

    def _first(self, deadline: float) -> Frame:
        frame = self.receive(deadline)
        if frame is None:
            raise LateError(f"{self.address} does not answer in time")
        return frame

    def _agree(self, offered: str, beat: int) -> None:
        sent, _, wanted = offered.partition(",")
        sends = int(sent) if sent.isdecimal() else 0
        wants = int(wanted) if wanted.isdecimal() else 0
        if sends:
            self._silent_seconds = _GRACE * max(sends, beat) / 1000
        if wants:
            # Twice as often as agreed: the broker allows for no delay.
            seconds = max(wants, beat) / 2000
            self._beating = threading.Thread(
                target=self._beat, args=(seconds,), name="activemq-heart-beat", daemon=True
            )
            self._beating.start()

    def _beat(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            with self._lock:
                # Within a frame it would become a part of it.
                if self._is_sending:
                    continue
                try:
                    self._write(_BEAT)
                except TransientError:
                    # The other thread finds out by itself.
                    return

    def _write(self, data: bytes | memoryview) -> int:
        """Write what the network takes now; with the lock held."""
        try:
            return self._socket.send(data)
        except _NOT_NOW:
            return 0
        except OSError as exc:
            raise unreachable(exc, self._route, self.address) from exc

    def _read(self) -> bool:
        """Take in what has arrived; False where nothing has."""
        try:
            with self._lock:
                data = self._socket.recv(_READ_BYTES)
        except _NOT_NOW:
            return False
        except OSError as exc:
            raise unreachable(exc, self._route, self.address) from exc
        if not data:
            raise BrokerUnavailableError(f"{self.address} has closed the connection")
        self._heard_at = time.monotonic()
        self._parser.feed(data)
        try:
            while (frame := self._parser.next()) is not None:
                self._frames.append(frame)
        except FrameError as exc:
            why = str(exc)
            raise no_stomp(self._route, self.address, why, is_encrypted=self._is_encrypted) from exc
        return True

    def _check_alive(self) -> None:
        if self._silent_seconds is None:
            return
        silent = time.monotonic() - self._heard_at
        if silent > self._silent_seconds:
            raise BrokerUnavailableError(f"{self.address} has been silent for {silent:.0f} s")

    def _wait(self, deadline: float, events: int) -> bool:
        """Wait until the socket is ready or heart-beats are missed; False at the deadline."""
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if self._silent_seconds is not None:
            left = min(left, self._silent_seconds)
        poll = select.poll()
        poll.register(self._socket, events)
        poll.poll(left * 1000)
        return True


def _connect(
    address: tuple[str, int], context: ssl.SSLContext | None, deadline: float
) -> socket.socket:
    seconds = max(0.01, deadline - time.monotonic())
    connected = socket.create_connection(address, timeout=seconds)
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            # The time-out holds for the handshake too.
            connected = _encrypted(connected, context, address[0])
        connected.setblocking(False)
    except BaseException:
        connected.close()
        raise
    return connected


def _encrypted(connected: socket.socket, context: ssl.SSLContext, host: str) -> socket.socket:
    try:
        return context.wrap_socket(connected, server_hostname=host)
    except TimeoutError as exc:
        raise HandshakeTimeoutError from exc
