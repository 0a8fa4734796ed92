"""The one border where Kafka's errors become ours, decided by their codes alone."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaError

from outbox.errors import (
    BrokerUnavailableError,
    DestinationRefusedError,
    RecordRefusedError,
    TransientError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

TOO_LARGE: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG_SIZE,
    }
)
UNFIT: Final = TOO_LARGE | {KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP}
"""A record of the batch can never be stored; librdkafka reports them for its neighbours too."""

UNKNOWN: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001  # librdkafka's own codes have such names
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001  # the same
    }
)
DENIED: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.POLICY_VIOLATION,
    }
)
LOGIN: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001  # the same
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
TLS: Final = frozenset({KafkaError._SSL})  # noqa: SLF001  # the same
CLUSTER: Final = frozenset(
    {
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.SECURITY_DISABLED,
        KafkaError.INVALID_REQUIRED_ACKS,
    }
)
REFUSED: Final = UNKNOWN | DENIED | LOGIN | TLS | CLUSTER
"""The destination takes nothing until an operator acts; no event is at fault."""

FENCED: Final = frozenset(
    {
        KafkaError._FENCED,  # noqa: SLF001  # the same
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
    }
)
"""A newer producer writes for this route, or the broker ended a transaction that lasted long."""

AGAIN: Final = frozenset(
    {
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.UNKNOWN_PRODUCER_ID,
    }
)
"""What the transaction after an aborted one, or after a long pause, may fail with once."""

PURGED: Final = frozenset(
    {
        KafkaError._PURGE_QUEUE,  # noqa: SLF001  # the same
        KafkaError._PURGE_INFLIGHT,  # noqa: SLF001  # the same
    }
)
"""The consequence of an earlier error, never a cause."""

_REPEAT_SECONDS: Final = 30.0
_FAILED: Final = "FAIL"
"""What librdkafka's log calls a connection that failed."""


class NotConnectedError(DestinationRefusedError):
    """The broker was reached, and it and the client do not come together."""


class LoginRefusedError(NotConnectedError):
    """They came together, certificates included; the login failed."""


def transient(error: KafkaError, topic: str | None = None) -> TransientError:
    """Translate an error that no event is at fault for, with what an operator should do."""
    code, text = error.code(), error.str()
    if code in UNKNOWN:
        return DestinationRefusedError(
            f"the topic {topic!r} does not exist; create it, or correct the route's `topic`"
            f" ({text})"
        )
    if code in DENIED:
        return DestinationRefusedError(
            f"the topic {topic!r} is not open to this client; grant it the rights"
            f" Describe and Write, or Read for a consumer ({text})"
        )
    if code in LOGIN:
        return LoginRefusedError(
            "the broker refuses the login: correct sasl_username and sasl_password, or whatever"
            " else sasl_mechanism goes by, in the route's `client`, or the user at the broker"
            f" ({_cause(text)})"
        )
    if code in TLS:
        return NotConnectedError(
            "the broker and this client do not come together over TLS: correct security_protocol"
            f" and the ssl settings in the route's `client` ({_cause(text)})"
        )
    if code in CLUSTER:
        return DestinationRefusedError(f"the cluster refuses this client; grant the right: {text}")
    return BrokerUnavailableError(f"the broker does not answer: {text}")


def _cause(text: str) -> str:
    """Leave out how long it took, so that the same failure has the same text each time."""
    return text.partition(" (after ")[0]


def unfit(error: KafkaError, topic: str) -> RecordRefusedError:
    """Translate the refusal of one record."""
    if error.code() in TOO_LARGE:
        return RecordRefusedError(
            f"the event is larger than max.message.bytes of the topic {topic!r} ({error.str()})"
        )
    return RecordRefusedError(
        f"the topic {topic!r} cannot take the event; a compacted one needs a key ({error.str()})"
    )


class Reports:
    """What a client reports beside its calls: kept for the next error, logged now and then.

    Its methods run as callbacks, on the thread that polls.
    """

    def __init__(self, route: str, level: int = logging.WARNING) -> None:
        """`level` is the one to log reports with, but for refusals, which become errors."""
        self._route = route
        self._level = level
        self._logged_at: dict[int, float] = {}
        self._refusal: DestinationRefusedError | None = None
        self._is_down = False

    def note(self, error: KafkaError) -> None:
        """Take one report of a client (`error_cb`)."""
        code, level = error.code(), self._level
        if code in LOGIN | TLS:
            level = logging.DEBUG
        if code in REFUSED:
            translated = transient(error)
            if isinstance(translated, DestinationRefusedError):
                self._refusal = translated
        elif code == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001  # the same
            self._is_down = True
        now = time.monotonic()
        if now - self._logged_at.get(code, -_REPEAT_SECONDS) >= _REPEAT_SECONDS:
            self._logged_at[code] = now
            log.log(level, "kafka client: %s", error.str(), extra={"route": self._route})

    def take_refusal(self) -> DestinationRefusedError | None:
        """Return why the destination refused this client since last asked, if it did."""
        refusal, self._refusal = self._refusal, None
        return refusal

    def take_outage(self) -> BrokerUnavailableError | None:
        """Return an error if since last asked all brokers were found to be down."""
        is_down, self._is_down = self._is_down, False
        return BrokerUnavailableError("no broker of the cluster answers") if is_down else None


class QuietLog(logging.Filter):
    """Lets a text of librdkafka's log pass once in half a minute, numbers apart.

    Failed connections are left out, because they are reported as errors too (`Reports`); of a wrong
    certificate they would give wrong advice.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logged_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record is to be logged."""
        facility = record.getMessage().partition(" ")[0]
        is_due = record.created - self._logged_at.get(facility, 0.0) >= _REPEAT_SECONDS
        if is_due:
            self._logged_at[facility] = record.created
        return is_due and (facility != _FAILED or log.isEnabledFor(logging.DEBUG))


def without_secrets(text: str, settings: Mapping[str, str]) -> str:
    """Return a text in which no secret among the settings can be read."""
    for name, value in settings.items():
        if value and is_secret(name):
            text = text.replace(value, "***")
    return text


def is_secret(name: str) -> bool:
    """Whether the value of a client setting must not be shown."""
    return any(part in name for part in ("password", "secret", "key", "pem", "token", "jaas"))
