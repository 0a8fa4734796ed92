"""The settings of a route on Kafka, and the librdkafka configurations made of them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from outbox.transports.topic import TemplateText

_OURS: Final = {
    "bootstrap.servers": "set the route's `bootstrap_servers`",
    "metadata.broker.list": "set the route's `bootstrap_servers`",
    "message.timeout.ms": "it follows from the route's lease",
    "delivery.timeout.ms": "it follows from the route's lease",
    "delivery.report.only.error": "acknowledgements rest on it",
    "transactional.id": "it belongs to exactly-once delivery",
    "enable.gapless.guarantee": "a failed page would end in a fatal error",
    "group.id": "it is the name of the consumer",
    "enable.auto.offset.store": "events not yet handled would count as handled",
    "enable.partition.eof": "the end of a partition is no event",
}
_SAFE: Final = {
    "enable.idempotence": ({"true"}, "events would be stored twice or out of order"),
    "acks": ({"all", "-1"}, "a failing broker would lose events"),
    "request.required.acks": ({"all", "-1"}, "a failing broker would lose events"),
    "enable.auto.commit": ({"false"}, "events not yet handled would count as handled"),
    "auto.offset.reset": ({"earliest", "error"}, "a new consumer would miss events"),
    "partitioner": (
        {"consistent", "consistent_random", "murmur2", "murmur2_random", "fnv1a", "fnv1a_random"},
        "events of one key would not stay in order",
    ),
}


def _named(value: Any) -> Any:
    """Spell names as librdkafka does: with dots, so that TOML and environment need no quotes."""
    if not isinstance(value, dict):
        return value
    return {
        name if name == "log_level" else str(name).lower().replace("_", "."): _text(setting)
        for name, setting in value.items()
    }


def _text(setting: Any) -> Any:
    if isinstance(setting, bool):
        return str(setting).lower()
    return str(setting) if isinstance(setting, int | float) else setting


def _safe(settings: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, setting in settings.items():
        if name in _OURS:
            msg = f"{name} cannot be set here: {_OURS[name]}"
            raise ValueError(msg)
        allowed, harm = _SAFE.get(name, (None, ""))
        if allowed is not None and setting.get_secret_value() not in allowed:
            msg = f"{name} must be {' or '.join(sorted(allowed))}: otherwise {harm}"
            raise ValueError(msg)
        if name == "batch.size" and not setting.get_secret_value().isdecimal():
            msg = "batch.size must be a number of bytes"
            raise ValueError(msg)
    return settings


def _without_login(servers: str) -> str:
    if "@" in servers:  # addresses are shown in errors and documents
        msg = "an address has no login: set sasl_username and sasl_password of `client`"
        raise ValueError(msg)
    return servers


Properties = Annotated[
    dict[str, SecretStr], BeforeValidator(_named), AfterValidator(_safe), Field(repr=False)
]
"""Properties of librdkafka by name, `security.protocol` or `security_protocol`."""


class Options(BaseModel):
    """The settings of a route on Kafka; no value of a client property is ever shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: Annotated[str, Field(min_length=1), AfterValidator(_without_login)]
    """Addresses of some brokers: `host:port,host:port`."""
    topic: TemplateText = "{type_prefix}"
    """Template of the topic's name."""
    delivery: Literal["exactly-once", "at-least-once"] = "exactly-once"
    """What a consumer that reads committed records sees of a relay that was killed: nothing, or
    some events again."""
    transaction_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = "outbox-"
    """What the route's transactional.id, and the topic of the same name that holds how far it has
    come, begin with: rights are granted by it."""
    client: Properties = {}
    """librdkafka properties of every client: TLS, SASL, time-outs."""
    producer: Properties = {}
    """Further properties of the relay's producer."""
    consumer: Properties = {}
    """Further properties of the workers' consumers."""

    def admin_config(self) -> dict[str, str]:
        """Return the configuration of the client that looks topics up."""
        return {
            # An outage ends when the broker is back, not up to ten seconds later.
            "reconnect.backoff.max.ms": "1000",
            "socket.keepalive.enable": "true",
            **_plain(self.client),
            "bootstrap.servers": self.bootstrap_servers,
        }

    def producer_config(self, *, timeout_ms: int, largest_batch: int | None) -> dict[str, str]:
        """Return the configuration of an idempotent producer.

        `largest_batch` is what the strictest topic takes, in bytes.
        """
        config = {
            # Keys go where Java clients put them.
            "partitioner": "murmur2_random",
            # The topic decides how large a record may be, not the client.
            "message.max.bytes": "1000000000",
            **self.admin_config(),
            **_plain(self.producer),
            "enable.idempotence": "true",
            "acks": "all",
            "message.timeout.ms": str(timeout_ms),
        }
        if largest_batch is not None:
            wanted = int(config.get("batch.size", 1_000_000))
            config["batch.size"] = str(min(wanted, largest_batch))
        return config

    def consumer_config(self, group: str) -> dict[str, str]:
        """Return the configuration of a member of a consumer group."""
        own = _plain(self.client) | _plain(self.consumer)
        config = {
            "auto.offset.reset": "earliest",
            # A topic that is created later is picked up within this time.
            "topic.metadata.refresh.interval.ms": "10000",
            **self.admin_config(),
            **own,
            "group.id": group,
            "enable.auto.commit": "false",
            "enable.auto.offset.store": "false",
        }
        if own.get("group.protocol") != "consumer":
            # The newer group protocol leaves both to the broker, and refuses them.
            config.setdefault("partition.assignment.strategy", "cooperative-sticky")
            config.setdefault("session.timeout.ms", "15000")
        return config

    @property
    def compresses(self) -> bool:
        """Whether records are smaller on the wire than here."""
        settings = _plain(self.client) | _plain(self.producer)
        codec = settings.get("compression.type", settings.get("compression.codec", "none"))
        return codec != "none"


def _plain(properties: dict[str, SecretStr]) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in properties.items()}
