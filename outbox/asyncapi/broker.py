"""Where a route publishes, as far as everybody may know it: no secret of its settings is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outbox.transports import transport_of
from outbox.transports.activemq import destinations

if TYPE_CHECKING:
    from pydantic import HttpUrl

    from outbox.settings import RouteSettings

_S3: Final = "s3.amazonaws.com"


@dataclass(frozen=True, slots=True)
class Broker:
    """Servers that have the same topics; two routes may share them."""

    protocol: str
    """As AsyncAPI calls it, for instance `kafka-secure`."""
    hosts: tuple[str, ...]
    """Each with its port, where it has one."""
    path: str | None = None
    """Where on the host, for instance a bucket."""


@dataclass(frozen=True, slots=True)
class Outlet:
    """One route: where it publishes, and under which addresses."""

    route: str
    transport: str
    broker: Broker
    settings: RouteSettings
    template: str | None
    """Of its topics; None where its transport has none."""
    is_structured: bool = False
    """Whether an event's attributes and its data travel as one JSON object."""
    options: Any = None
    """Of ActiveMQ alone, whose addresses depend on who looks."""

    def sent_to(self, topic: str) -> str:
        """Return the address that events of a topic are sent to."""
        return topic if self.options is None else destinations.target(self.options, topic)

    def received_from(self, topic: str, consumer: str) -> str:
        """Return the address that a consumer receives the events of a topic from."""
        if self.options is None:
            return topic
        return destinations.source(self.options, consumer, topic)


def outlet(route: str, settings: RouteSettings) -> Outlet:
    """Read the settings of a route; raises `ConfigurationError` where they are wrong."""
    _, checked = transport_of(route, settings)
    options: Any = checked
    template = getattr(options, "topic", None)
    name = settings.transport
    match name:
        case "kafka":
            return Outlet(route, name, _kafka(options), settings, template)
        case "activemq":
            protocol = "stomp" if options.tls is None else "stomps"
            hosts = tuple(_at(host, port) for host, port in options.addresses)
            return Outlet(route, name, Broker(protocol, hosts), settings, template, options=options)
        case "s3":
            return Outlet(route, name, _s3(options), settings, template, is_structured=True)
        case "memory":
            return Outlet(route, name, Broker(name, (options.broker,)), settings, template)
        case _:
            # Of another package: only it knows which of its settings are secret.
            own = template if isinstance(template, str) else None
            return Outlet(route, name, Broker(name, (name,)), settings, own)


def public_url(url: HttpUrl) -> str:
    """Return a URL without the login and the query that it may have."""
    return f"{url.scheme}://{_at(url.host or '', url.port)}{(url.path or '').rstrip('/')}"


def _kafka(options: Any) -> Broker:
    name = options.client.get("security.protocol")
    security = "plaintext" if name is None else name.get_secret_value().lower()
    protocol = "kafka-secure" if security in {"ssl", "sasl_ssl"} else "kafka"
    # librdkafka lets each address name its protocol: `SSL://broker-1:9092`.
    hosts = [part.strip().rpartition("://")[2] for part in options.bootstrap_servers.split(",")]
    return Broker(protocol, tuple(host for host in hosts if host))


def _s3(options: Any) -> Broker:
    path = "/".join(part for part in ("", options.bucket, options.prefix.rstrip("/")) if part)
    url = options.endpoint_url
    if url is not None:
        return Broker("s3", (_at(url.host or "", url.port),), f"/{path}")
    region = "" if options.region is None else f"{options.region}."
    return Broker("s3", (_S3.replace(".", f".{region}", 1),), f"/{path}")


def _at(host: str, port: int | None) -> str:
    bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return bracketed if port is None else f"{bracketed}:{port}"
