"""Every error of this library, arranged by what the caller should do about it.

OutboxError
├── UsageError                      correct the code that made the call
│   ├── EventDefinitionError        … the event class or handler, at import
│   ├── UnregisteredEventError      … its type was never registered
│   ├── InvalidEventError           … its data does not fit its type, or an attribute is wrong
│   ├── EventTooLargeError          … it would not fit into a broker's record
│   ├── NoTransactionError          … there is no transaction that it could commit with
│   └── UntrackedChangeError        … a statement changes tracked rows, and no event would tell
├── ConfigurationError              correct a setting, a right or the schema, then start again
│   └── ForeignPositionError        … a position was made on another database server
├── TransientError                  wait and try again; nothing is lost meanwhile
│   ├── BrokerUnavailableError      … the broker does not answer
│   ├── DestinationRefusedError     … it refuses everything: a topic or right is missing
│   ├── HeldBackError               … an earlier event of its key has to be settled first
│   ├── InDoubtError                … it is not known whether a transaction was committed
│   └── LeaseLostError              … another relay holds the route, or its position was moved
└── PermanentError                  set this one event aside: it can never succeed
    ├── MisfitError                 … its data does not fit the class of its handler
    ├── RecordRefusedError          … the destination can never take this record
    └── DecodeError                 … what arrived is not an event
"""

from __future__ import annotations


class OutboxError(Exception):
    """Anything that this library raises on purpose."""


class UsageError(OutboxError):
    """The call is wrong: correct the code."""


class EventDefinitionError(UsageError):
    """An event class or a handler is declared in a way that cannot work."""


class UnregisteredEventError(UsageError):
    """The object is not an instance of a class registered with `@outbox.event`."""


class InvalidEventError(UsageError):
    """The event's data does not fit its registered type, or one of its attributes is not valid."""


class EventTooLargeError(UsageError):
    """The event would not fit into a broker's record."""


class NoTransactionError(UsageError):
    """There is no open transaction that the event could commit with."""


class UntrackedChangeError(UsageError):
    """A statement changes rows of a tracked class without the unit of work: no event would tell."""


class UntrackedChangeWarning(UserWarning):
    """The same, where `on_bulk="warn"` lets it pass."""


class ConfigurationError(OutboxError):
    """A setting, a right or the schema is wrong: correct it, then start again."""


class ForeignPositionError(ConfigurationError):
    """A stored position was made on another database server, so it says nothing about this one."""


class TransientError(OutboxError):
    """It may succeed later: wait and try again."""


class BrokerUnavailableError(TransientError):
    """The broker does not answer; an outage burns no attempt and makes no dead letter."""


class DestinationRefusedError(TransientError):
    """The destination refuses every event: a topic, a right or a credential is missing.

    No event is at fault, so none becomes a dead letter; an operator has to act.
    """


class HeldBackError(TransientError):
    """An earlier event of its key was not published, so this one was not sent either."""


class InDoubtError(TransientError):
    """It is not known whether a transaction was committed, or it is no longer ours to say.

    The progress that the broker recorded last tells.
    """


class LeaseLostError(TransientError):
    """Another relay holds this route, or its position was moved by someone else."""


class PermanentError(OutboxError):
    """One event that can never succeed; a handler raises it to skip all further attempts."""


class MisfitError(PermanentError):
    """The event's data does not fit the class that its handler takes."""

    def __init__(self, message: str, without_values: str) -> None:
        """Take the same twice: as it is, and without anything that stands in the data."""
        super().__init__(message)
        self.without_values = without_values


class RecordRefusedError(PermanentError):
    """The destination can never take this record: too large, or without the key that it needs."""


class DecodeError(PermanentError):
    """What arrived from the broker is not a CloudEvent that this library can read."""


class DatabaseUnavailableError(TransientError):
    """The database does not answer."""


class CaptureRestartedError(TransientError):
    """The database server crashed or was replaced: only its stored positions count now."""
