"""Which of several brokers is connected to."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from outbox.errors import BrokerUnavailableError, DestinationRefusedError, TransientError
from outbox.transports.activemq.link import Link

if TYPE_CHECKING:
    from outbox.transports.activemq.options import Options

log = logging.getLogger(__name__)

_REPEAT_SECONDS: Final = 30.0


class Dialler:
    """Connects to the first broker of the list that answers, beginning with the last good one."""

    def __init__(self, route: str, options: Options) -> None:
        """Raise `ConfigurationError` where a file of the TLS settings cannot be used."""
        self._route = route
        self._options = options
        self._context = None if options.tls is None else options.tls.context(route)
        self._addresses = options.addresses
        self._first = 0
        self._logged: dict[str, float] = {}

    def connect(self, deadline: float) -> Link:
        """Return a connection; the time that is left is shared by the brokers.

        Raises `DestinationRefusedError` where one of them refuses this client, and otherwise
        `BrokerUnavailableError`.
        """
        failures: list[TransientError] = []
        for turn in range(len(self._addresses)):
            index = (self._first + turn) % len(self._addresses)
            left = deadline - time.monotonic()
            until = time.monotonic() + max(0.0, left) / (len(self._addresses) - turn)
            try:
                link = Link(
                    self._route, self._options, self._addresses[index], self._context, until
                )
            except TransientError as error:
                self._tell(error)
                failures.append(error)
                continue
            self._first = index
            self._logged.clear()
            return link
        for failure in failures:
            if isinstance(failure, DestinationRefusedError):
                raise failure
        raise BrokerUnavailableError("; ".join(map(str, failures)))

    def _tell(self, error: TransientError) -> None:
        """Log why a broker cannot be used, now and then: another one may hide it."""
        text, now = str(error), time.monotonic()
        if now - self._logged.get(text, -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
            self._logged[text] = now
            log.warning("cannot connect: %s", text, extra={"route": self._route})
