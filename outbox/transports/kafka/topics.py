"""What is known of the topics that a publisher writes to, asked before anything is sent."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, ConfigResource

from outbox.errors import TransientError
from outbox.transports.kafka.client import make
from outbox.transports.kafka.errors import CLUSTER, DENIED, UNKNOWN, transient

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from outbox.transports.kafka.errors import Reports
    from outbox.transports.kafka.options import Options

KNOWN_SECONDS: Final = 300.0
"""How long an answer counts; a topic's limits change rarely."""
REFUSED_SECONDS: Final = 5.0
"""How long a topic that refused a write is left alone."""


@dataclass(frozen=True, slots=True)
class Topic:
    """What a topic takes."""

    max_bytes: int | None
    """Its `max.message.bytes`; None where the client may not ask."""
    needs_key: bool
    """Whether it is compacted."""


class Topics:
    """A cache of topics. A topic that refuses this client stands in it with the reason."""

    def __init__(self, options: Options, reports: Reports) -> None:
        self._options = options
        self._reports = reports
        self._admin: AdminClient | None = None
        self._known: dict[str, Topic | TransientError] = {}
        self._expires_at: dict[str, float] = {}

    def __getitem__(self, name: str) -> Topic | TransientError:
        return self._known[name]

    @property
    def smallest_limit(self) -> int | None:
        """The smallest known limit of a record."""
        limits = [
            topic.max_bytes
            for topic in self._known.values()
            if isinstance(topic, Topic) and topic.max_bytes is not None
        ]
        return min(limits, default=None)

    def known_until(self, name: str) -> float:
        """Return until when what is known of a topic counts, by the monotonic clock."""
        return self._expires_at[name]

    def learn(
        self, names: Collection[str], producer: Callable[[], Producer], deadline: float
    ) -> None:
        """Ask for what is not known of these topics; raises `TransientError` without an answer.

        Asking for a topic that does not exist creates it, where the broker is set to do so.
        """
        now = time.monotonic()
        missing = [name for name in names if self._expires_at.get(name, 0.0) <= now]
        if not missing:
            return
        for name, answer in self._describe(missing, deadline).items():
            if isinstance(answer, Topic):
                self._keep(name, answer, KNOWN_SECONDS)
                continue
            refusal = _found(name, producer(), deadline)
            if refusal is not None:
                self._keep(name, refusal, 0.0)
            else:
                # Created a moment ago, or closed to questions: asked again soon.
                self._keep(name, Topic(max_bytes=None, needs_key=False), REFUSED_SECONDS)

    def refuse(self, name: str, error: TransientError) -> None:
        """Remember for a while that a topic refused a write."""
        self._keep(name, error, REFUSED_SECONDS)

    def forget(self) -> None:
        """Forget everything, connections included; called when something failed."""
        self._admin = None
        now = time.monotonic()
        self._expires_at = {
            name: expires_at
            for name, expires_at in self._expires_at.items()
            if expires_at > now and isinstance(self._known[name], TransientError)
        }
        self._known = {name: self._known[name] for name in self._expires_at}

    def poll(self) -> None:
        """Let the client's reports through."""
        if self._admin is not None:
            self._admin.poll(0)

    def _keep(self, name: str, known: Topic | TransientError, seconds: float) -> None:
        self._known[name] = known
        self._expires_at[name] = time.monotonic() + seconds

    def _describe(self, names: list[str], deadline: float) -> dict[str, Topic | KafkaError]:
        if self._admin is None:
            self._admin = make(AdminClient, self._options.admin_config(), self._reports)
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
        seconds = max(0.05, deadline - time.monotonic())
        futures = self._admin.describe_configs(resources, request_timeout=seconds)
        answers: dict[str, Topic | KafkaError] = {}
        for resource, future in futures.items():
            try:
                settings = future.result()
            except KafkaException as exc:
                error: KafkaError = exc.args[0]
                if error.code() not in UNKNOWN | DENIED | CLUSTER:
                    raise transient(error) from exc
                answers[resource.name] = error
            else:
                answers[resource.name] = Topic(
                    max_bytes=int(settings["max.message.bytes"].value),
                    needs_key="compact" in settings["cleanup.policy"].value.split(","),
                )
        return answers


def _found(name: str, producer: Producer, deadline: float) -> TransientError | None:
    """Ask the producer itself for a topic; return the refusal, or None where it is there."""
    try:
        found = producer.list_topics(name, timeout=max(0.05, deadline - time.monotonic()))
    except KafkaException as exc:
        raise transient(exc.args[0], name) from exc
    error = found.topics[name].error
    if error is None or error.code() == KafkaError.LEADER_NOT_AVAILABLE:
        return None
    return transient(error, name)
