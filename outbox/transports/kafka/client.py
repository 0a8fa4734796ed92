"""Making and connecting librdkafka's clients: what is wrong with their settings is told here."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from confluent_kafka import KafkaException

from outbox.errors import BrokerUnavailableError, ConfigurationError, DestinationRefusedError
from outbox.transports.kafka.diagnosis import UNVERIFIED, diagnose, wrong_setting
from outbox.transports.kafka.errors import (
    LoginRefusedError,
    NotConnectedError,
    QuietLog,
    transient,
    without_secrets,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from confluent_kafka import KafkaError, Producer

    from outbox.errors import TransientError
    from outbox.transports.kafka.errors import Reports

Client = TypeVar("Client")

LOOK_SECONDS: Final = 1.0
"""How long a client may try to connect before it is looked at what keeps it from it."""
DIAGNOSIS_SECONDS: Final = 2.0
"""The longest such look."""

_LOG: Final = logging.getLogger("outbox.transports.kafka.librdkafka")
_LOG.addFilter(QuietLog())


def make(
    kind: Callable[..., Client], config: Mapping[str, str], reports: Reports, **callbacks: Any
) -> Client:
    """Make a client of librdkafka; raises `ConfigurationError` that names the wrong property."""
    try:
        return kind({**config, **callbacks, "error_cb": reports.note}, logger=_LOG)
    except KafkaException as exc:
        reason = wrong_setting(config) or without_secrets(exc.args[0].str(), config)
        msg = f"the Kafka client refuses its settings: {reason}"
        raise ConfigurationError(msg) from None


def connect(client: Producer, config: Mapping[str, str], reports: Reports, deadline: float) -> None:
    """Return when a broker has answered.

    Raises `DestinationRefusedError` as soon as it is known which setting is wrong, and
    `BrokerUnavailableError` at the deadline, of the monotonic clock.
    """
    while True:
        left = deadline - time.monotonic()
        try:
            client.list_topics(timeout=max(0.05, min(LOOK_SECONDS, left)))
        except KafkaException as exc:
            client.poll(0)
            error = reports.take_refusal() or _unanswered(exc.args[0], config)
            left = deadline - time.monotonic()
            error = explained(error, config, left)
            if left <= 0 or isinstance(error, DestinationRefusedError):
                raise error from exc
        else:
            return


def explained(error: TransientError, config: Mapping[str, str], seconds: float) -> TransientError:
    """Return the error that names the setting behind an outage or a failed login, where one is.

    It takes at most `seconds`, and never more than `DIAGNOSIS_SECONDS`.
    """
    if not isinstance(error, BrokerUnavailableError | NotConnectedError):
        return error
    if isinstance(error, LoginRefusedError):
        # Our own view of the certificates does not count: librdkafka has accepted them.
        config = {**config, **UNVERIFIED}
    told = diagnose(config, min(DIAGNOSIS_SECONDS, seconds)) if seconds > 0 else None
    return error if told is None else DestinationRefusedError(told)


def _unanswered(error: KafkaError, config: Mapping[str, str]) -> TransientError:
    told = transient(error)
    if not isinstance(told, BrokerUnavailableError):
        return told
    brokers = config["bootstrap.servers"]
    return BrokerUnavailableError(
        f"no broker of bootstrap_servers ({brokers}) answers ({error.str()})"
    )
