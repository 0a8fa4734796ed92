"""The S3 transport: CloudEvents as JSON files, through boto3.

Publishing is exactly-once in the log, in order per key; receiving is at-least-once, and in order
per key. Settings, guarantees and failures are described in `docs/guide/s3.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.transports.s3.options import Options
from outbox.transports.s3.probing import probe_bucket
from outbox.transports.s3.publishing import S3Publisher
from outbox.transports.s3.receiving import S3Subscriber
from outbox.transports.topic import TopicTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Options", "publisher", "subscriber", "topic_of"]


def publisher(route: str, options: Options, timeout: float) -> S3Publisher:
    """Make a publisher; it connects when it is first used."""
    del route
    return S3Publisher(options, timeout)


def subscriber(route: str, options: Options, group: str, topics: Sequence[str]) -> S3Subscriber:
    """Make a member of a consumer group; it joins when it first receives."""
    del route
    return S3Subscriber(options, group, topics)


def topic_of(options: Options, event_type: str) -> str | None:
    """Return the topic of an event type; None where the template needs more than the type."""
    return TopicTemplate(options.topic).topic_of(event_type)


def probe(route: str, options: Options, timeout: float) -> None:
    """Return where a relay could publish to the bucket; see `ProbedTransport.probe`.

    Nothing is left there. Whether a key for encryption may be used, only storing an object tells.
    """
    del route
    probe_bucket(options, timeout)
