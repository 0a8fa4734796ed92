"""Making librdkafka's clients: their configuration is checked here, and their log tamed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar

from confluent_kafka import KafkaException

from outbox.errors import ConfigurationError
from outbox.transports.kafka.errors import QuietLog, without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from outbox.transports.kafka.errors import Reports

Client = TypeVar("Client")

_LOG: Final = logging.getLogger("outbox.transports.kafka.librdkafka")
_LOG.addFilter(QuietLog())


def make(
    kind: Callable[..., Client], config: Mapping[str, str], reports: Reports, **callbacks: Any
) -> Client:
    """Make a client of librdkafka; raises `ConfigurationError` that names the wrong property."""
    try:
        return kind({**config, **callbacks, "error_cb": reports.note}, logger=_LOG)
    except KafkaException as exc:
        reason = without_secrets(exc.args[0].str(), config)
        msg = f"the Kafka client refuses its settings: {reason}"
        raise ConfigurationError(msg) from None
