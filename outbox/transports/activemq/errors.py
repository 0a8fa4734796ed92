"""The border where errors of ActiveMQ, of TLS and of the network become ours.

An ERROR frame has no code. What takes its place is the Java class of the exception, where the
broker names it, and what was asked for; its text is for people alone.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

from outbox.errors import BrokerUnavailableError, DestinationRefusedError, TransientError

if TYPE_CHECKING:
    from outbox.transports.activemq.frames import Frame

_SHORT: Final = 300
"""Letters of a broker's text that are shown."""


class ErrorFrameError(TransientError):
    """The broker answered with an ERROR frame, and takes no more on this connection."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.text = frame.headers.get("message", "")[:_SHORT]
        super().__init__(f"the broker answers with an error: {self.text}")
        self.receipt = frame.headers.get("receipt-id")
        """Which request it answers, where it says so."""
        first = frame.body[:200].decode(errors="replace").partition(":")[0]
        self.is_about_a_frame = first.endswith(".ProtocolException")
        """A frame was not taken, whatever was asked for: too large, for instance."""
        self.is_full = first.endswith(".ResourceAllocationException")
        """The broker has no room left."""


class LateError(BrokerUnavailableError):
    """The broker has not answered when the time was up; it may still do what was asked for."""


class HandshakeTimeoutError(OSError):
    """A connection was made, and then TLS was not answered."""


def refused_login(frame: Frame, route: str, address: str) -> DestinationRefusedError:
    """Translate the answer to CONNECT."""
    text = frame.headers.get("message", "")[:_SHORT]
    return DestinationRefusedError(
        f"{address} lets this client not in; correct routes.{route}.username and"
        f" routes.{route}.password ({text})"
    )


def no_stomp(route: str, address: str, why: str, *, is_encrypted: bool) -> DestinationRefusedError:
    """Say that something else listens at an address."""
    hint = "" if is_encrypted else f", or encrypts, and then needs the table routes.{route}.tls"
    return DestinationRefusedError(
        f"{address} does not speak STOMP: correct the port in routes.{route}.brokers{hint} ({why})"
    )


def unreachable(exc: OSError, route: str, address: str) -> TransientError:
    """Translate what a socket raises."""
    where = f"routes.{route}.tls"
    if isinstance(exc, HandshakeTimeoutError):
        return BrokerUnavailableError(
            f"{address} does not answer in TLS; if it does not encrypt, remove the table {where} or"
            f" correct the port in routes.{route}.brokers"
        )
    if isinstance(exc, ssl.SSLCertVerificationError):
        return DestinationRefusedError(
            f"the certificate of {address} is not accepted; correct {where}.ca_file, or the name"
            f" in routes.{route}.brokers ({exc.verify_message})"
        )
    if isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return BrokerUnavailableError(f"{address} has closed the connection")
    if isinstance(exc, ssl.SSLError):
        return DestinationRefusedError(
            f"{address} and this client cannot agree on TLS; correct {where}.certificate_file"
            f" where the broker asks for one, or the port in routes.{route}.brokers"
            f" ({exc.reason or exc})"
        )
    return BrokerUnavailableError(f"{address} does not answer: {exc.strerror or exc}")
