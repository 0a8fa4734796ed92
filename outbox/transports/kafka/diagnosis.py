"""Why a broker and a client do not come together, found by greeting the broker once ourselves.

    connect ─▶ TLS, where the settings say so ─▶ SaslHandshake ─▶ a code, and what the broker takes

The first step that fails names the setting. One that is not even answered proves nothing: then it
is an outage. Nothing secret is sent.
"""

from __future__ import annotations

import queue
import socket
import ssl
import struct
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from outbox.transports.kafka import tls

if TYPE_CHECKING:
    from collections.abc import Mapping

PORT: Final = 9092
"""Of an address without one, as librdkafka has it."""
UNVERIFIED: Final = {"enable.ssl.certificate.verification": "false"}
"""The settings of a client that takes any certificate."""
_NO_MECHANISM: Final = "NONE"
"""What a client without a login asks for: a listener that wants one refuses it."""
_SASL_HANDSHAKE: Final = 17
_VERSION: Final = 1
_TAKEN: Final = 0
_UNSUPPORTED_MECHANISM: Final = 33
_ILLEGAL_STATE: Final = 34
"""The codes that Kafka answers a SaslHandshake with; the last one where there is no login."""
_LARGEST_ANSWER: Final = 10_000
"""Bytes; what claims to be larger is not Kafka's."""


class Greeting(NamedTuple):
    """What a listener answered."""

    code: int
    mechanisms: list[str]


class Wanted(NamedTuple):
    """What a client is set to."""

    is_encrypted: bool
    has_login: bool
    mechanism: str

    @classmethod
    def by(cls, config: Mapping[str, str]) -> Wanted:
        """Read it from a client's configuration."""
        protocol = config.get("security.protocol", "plaintext").lower()
        mechanism = config.get("sasl.mechanism") or config.get("sasl.mechanisms")
        return cls("ssl" in protocol, "sasl" in protocol, mechanism or "")

    @property
    def asked(self) -> str:
        """Return the mechanism to greet with."""
        return (self.mechanism if self.has_login else "") or _NO_MECHANISM


def diagnose(config: Mapping[str, str], seconds: float) -> str | None:
    """Return which setting keeps a client from its brokers; None where nothing is found.

    It takes at most `seconds`, and looks at the first broker of `bootstrap.servers` that can be
    connected to.
    """
    found: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    deadline = time.monotonic() + seconds
    # On a thread, because nothing limits how long a name is looked up.
    looking = threading.Thread(
        target=lambda: found.put(_look(config, deadline)), name="kafka-diagnosis", daemon=True
    )
    looking.start()
    try:
        return found.get(timeout=max(0.0, seconds))
    except queue.Empty:
        return None


def wrong_setting(config: Mapping[str, str]) -> str | None:
    """Return why a client could not even be made; None where it is not about TLS or logins."""
    wanted = Wanted.by(config)
    if wanted.has_login and not wanted.mechanism:
        return "sasl_mechanism is missing, for instance SCRAM-SHA-512"
    try:
        if wanted.is_encrypted:
            tls.context(config)
    except tls.SettingError as exc:
        return str(exc)
    return None


def judge(wanted: Wanted, greeting: Greeting, address: str) -> str | None:
    """Say what a listener's answer means for a client."""
    offered = ", ".join(greeting.mechanisms)
    if greeting.code == _UNSUPPORTED_MECHANISM and wanted.has_login:
        return (
            f"the broker at {address} does not take the mechanism {wanted.mechanism}; set"
            f" sasl_mechanism to one that it takes: {offered}"
        )
    if greeting.code == _UNSUPPORTED_MECHANISM:
        return (
            f"the broker at {address} asks for a login; set security_protocol to"
            f" {_protocol(wanted.is_encrypted, has_login=True)}, and sasl_mechanism to one that it"
            f" takes: {offered}"
        )
    if greeting.code == _ILLEGAL_STATE and wanted.has_login:
        return (
            f"the broker at {address} knows no login there; set security_protocol to"
            f" {_protocol(wanted.is_encrypted, has_login=False)}, or name the broker's port for"
            " logins in bootstrap_servers"
        )
    return None


def _look(config: Mapping[str, str], deadline: float) -> str | None:
    wanted = Wanted.by(config)
    try:
        context = tls.context(config) if wanted.is_encrypted else None
    except tls.SettingError:
        return None  # librdkafka could use these files
    for address in config["bootstrap.servers"].split(","):
        host, port = _place(address.strip())
        try:
            socket.create_connection((host, port), _left(deadline)).close()
        except (OSError, UnicodeError, OverflowError):
            continue  # nobody is there, or no address has such a name or port
        return _greet(wanted, context, (host, port), deadline, tls.credentials(config))
    return None


def _greet(
    wanted: Wanted,
    context: ssl.SSLContext | None,
    place: tuple[str, int],
    deadline: float,
    credentials: tls.Credentials,
) -> str | None:
    address = f"{place[0]}:{place[1]}"
    try:
        return judge(wanted, _exchange(place, context, wanted.asked, deadline), address)
    except ssl.SSLError as exc:
        told = tls.refusal(exc, address, credentials)
        if told is not None:
            return told
    except OSError:
        pass
    # It may be the other kind of listener; whether it is, it says itself.
    other = None if wanted.is_encrypted else tls.unverified()
    has_login = wanted.has_login
    try:
        has_login = _exchange(place, other, wanted.asked, deadline).code != _ILLEGAL_STATE
    except ssl.SSLError as exc:
        if tls.refusal(exc, address, credentials) is None:
            return None
    except OSError:
        return None
    protocol = _protocol(not wanted.is_encrypted, has_login=has_login)
    if wanted.is_encrypted:
        return (
            f"the port {address} is not encrypted; name the broker's port for TLS in"
            f" bootstrap_servers, or set security_protocol to {protocol}"
        )
    return f"the broker at {address} speaks TLS; set security_protocol to {protocol}"


def _exchange(
    place: tuple[str, int], context: ssl.SSLContext | None, mechanism: str, deadline: float
) -> Greeting:
    """Greet a listener, without a login; raises `OSError` where the answer is not Kafka's."""
    with socket.create_connection(place, _left(deadline)) as plain:
        if context is None:
            return _ask(plain, mechanism, deadline)
        with context.wrap_socket(plain, server_hostname=place[0]) as encrypted:
            return _ask(encrypted, mechanism, deadline)


def _ask(connection: socket.socket, mechanism: str, deadline: float) -> Greeting:
    name = mechanism.encode()
    request = struct.pack(">hhihh", _SASL_HANDSHAKE, _VERSION, 0, -1, len(name)) + name
    connection.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _read(connection, 4, deadline))
    if not 10 <= size <= _LARGEST_ANSWER:  # noqa: PLR2004  # an id, a code and a count
        raise ConnectionError("that is no answer of Kafka")
    answer = _read(connection, size, deadline)
    try:
        return read_greeting(answer)
    except (struct.error, UnicodeDecodeError) as exc:
        raise ConnectionError("that is no answer of Kafka") from exc


def read_greeting(answer: bytes) -> Greeting:
    """Read the answer to a SaslHandshake; raises `struct.error` where it is something else."""
    _, code, count = struct.unpack_from(">ihi", answer)
    mechanisms, at = [], 10
    for _ in range(count):
        (length,) = struct.unpack_from(">h", answer, at)
        (name,) = struct.unpack_from(f">{length}s", answer, at + 2)
        mechanisms.append(name.decode())
        at += 2 + length
    return Greeting(code, mechanisms)


def _read(connection: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        connection.settimeout(_left(deadline))
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("the connection was closed")
        data += more
    return data


def _place(address: str) -> tuple[str, int]:
    """Take an address apart: `host`, `host:port` or `[host]:port`, with a protocol or without."""
    rest = address.rpartition("://")[2]
    host, _, port = rest.rpartition(":")
    if host and port.isdecimal():
        return host.strip("[]"), int(port)
    return rest.strip("[]"), PORT


def _protocol(is_encrypted: bool, *, has_login: bool) -> str:  # noqa: FBT001  # half of a name
    kind = "SSL" if is_encrypted else "PLAINTEXT"
    return f"SASL_{kind}" if has_login else kind


def _left(deadline: float) -> float:
    return max(0.01, deadline - time.monotonic())
