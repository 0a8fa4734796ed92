"""Events that commit with your data, and reach the broker afterwards.

    emitter  ─▶  table  ─▶  relay.capture  ─▶  transport  ─▶  consumer
    your         same       its own            Kafka, …       once per
    transaction  one        process                           inbox

Read the modules in that order. The names below, and only those, are stable; `metadata` is for an
application that has migrations of its own.
"""

from __future__ import annotations

from outbox.consumer import Consumer
from outbox.context import Context, actor
from outbox.doorbell import Doorbell
from outbox.emitter import emit
from outbox.envelope import Envelope
from outbox.errors import (
    BrokerUnavailableError,
    CaptureRestartedError,
    ConfigurationError,
    DatabaseUnavailableError,
    DecodeError,
    DestinationRefusedError,
    EventDefinitionError,
    EventTooLargeError,
    ForeignPositionError,
    HeldBackError,
    InDoubtError,
    InvalidEventError,
    LeaseLostError,
    MisfitError,
    NoTransactionError,
    OutboxError,
    PermanentError,
    RecordRefusedError,
    TransientError,
    UnregisteredEventError,
    UntrackedChangeError,
    UntrackedChangeWarning,
    UsageError,
)
from outbox.event import event
from outbox.keys import KeyStore, MasterKeys, TableKeyStore, use_key_store
from outbox.personal import Personal
from outbox.publisher import EventPublisher
from outbox.settings import Settings
from outbox.table import metadata
from outbox.tracking import Change, track
from outbox.upcasters import upcast

__all__ = [
    "BrokerUnavailableError",
    "CaptureRestartedError",
    "Change",
    "ConfigurationError",
    "Consumer",
    "Context",
    "DatabaseUnavailableError",
    "DecodeError",
    "DestinationRefusedError",
    "Doorbell",
    "Envelope",
    "EventDefinitionError",
    "EventPublisher",
    "EventTooLargeError",
    "ForeignPositionError",
    "HeldBackError",
    "InDoubtError",
    "InvalidEventError",
    "KeyStore",
    "LeaseLostError",
    "MasterKeys",
    "MisfitError",
    "NoTransactionError",
    "OutboxError",
    "PermanentError",
    "Personal",
    "RecordRefusedError",
    "Settings",
    "TableKeyStore",
    "TransientError",
    "UnregisteredEventError",
    "UntrackedChangeError",
    "UntrackedChangeWarning",
    "UsageError",
    "actor",
    "emit",
    "event",
    "metadata",
    "track",
    "upcast",
    "use_key_store",
]
