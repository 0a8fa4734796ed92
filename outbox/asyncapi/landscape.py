"""Who publishes which events where, and who receives them; told from what is declared, pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Literal

from outbox.asyncapi.broker import public_url
from outbox.asyncapi.topics import may_be, topic_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from outbox.asyncapi.broker import Broker, Outlet
    from outbox.consumer import Consumer
    from outbox.event import EventType
    from outbox.settings import ConsumerSettings

Packing = Literal["json", "avro", "protobuf", "jsonschema", "cloudevents"]
"""How an event is written: its data in one of the formats, with its attributes in headers; or all
of it as one JSON object, the structured mode of CloudEvents."""

_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """Events of one type and version, written in one way."""

    name: str
    version: int
    """0 for any: the type is not declared here, and a handler takes it as it comes."""
    packing: Packing = "json"


@dataclass(slots=True)
class Sending:
    """What one route publishes to a channel."""

    route: str
    kinds: list[Kind] = field(default_factory=list)
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Globs over attributes that an event has to match besides."""


@dataclass(slots=True)
class Receiving:
    """What one consumer receives from a channel."""

    consumer: str
    address: str
    """Where from; on ActiveMQ a queue of the consumer's own, behind the channel's topic."""
    kinds: list[Kind] = field(default_factory=list)


@dataclass(slots=True)
class Channel:
    """One topic of one broker."""

    id: str
    server: str
    """Id of its broker."""
    transport: str
    topic: str | None
    """It may have places such as `{subject}`; None where the transport has no topics."""
    address: str | None
    sendings: list[Sending] = field(default_factory=list)
    receivings: list[Receiving] = field(default_factory=list)

    @property
    def kinds(self) -> list[Kind]:
        """All that it carries as far as is known, without a repetition."""
        sent = {kind for each in self.sendings for kind in each.kinds}
        return sorted(sent | {kind for each in self.receivings for kind in each.kinds})


@dataclass(slots=True)
class Landscape:
    """Everything, in an order of its own that is the same each time."""

    source: str
    """CloudEvents `source` of whoever does not set one."""
    event_types: Sequence[EventType]
    brokers: dict[str, Broker] = field(default_factory=dict)
    """By id, which is the name of the first route that publishes there."""
    registries: dict[str, set[str]] = field(default_factory=dict)
    """By the id of a broker, the schema registries of its routes."""
    channels: list[Channel] = field(default_factory=list)
    consumers: dict[str, list[Kind]] = field(default_factory=dict)
    """By name, what each one handles; also those that no route reaches."""

    @property
    def kinds(self) -> list[Kind]:
        """Every kind of event: those that travel, and each declared type in JSON."""
        declared = {Kind(each.name, each.version) for each in self.event_types}
        carried = {kind for channel in self.channels for kind in channel.kinds}
        taken = {kind for kinds in self.consumers.values() for kind in kinds}
        travelling = {(kind.name, kind.version) for kind in carried}
        resting = {kind for kind in declared | taken if (kind.name, kind.version) not in travelling}
        return sorted(carried | resting)

    def type_of(self, kind: Kind) -> EventType | None:
        """Return the declaration of a kind; None where it is not declared here."""
        own = (kind.name, kind.version)
        return next((each for each in self.event_types if (each.name, each.version) == own), None)


def landscape(
    source: str,
    event_types: Iterable[EventType],
    outlets: Sequence[Outlet],
    consumers: Iterable[Consumer],
    settings: Mapping[str, ConsumerSettings],
) -> Landscape:
    """Put together what an application publishes and receives.

    `outlets` are the routes in the order of the settings: the first one is what consumers receive
    from that name none. `settings` are those of consumers, by name.
    """
    found = Landscape(source, sorted(event_types, key=lambda each: (each.name, each.version)))
    survey = _Survey(found)
    for outlet in outlets:
        survey.add_outlet(outlet)
    for consumer in sorted(consumers, key=lambda each: each.name):
        own = settings.get(consumer.name)
        route = None if own is None else own.route
        outlet_ = next((each for each in outlets if route in {None, each.route}), None)
        survey.add_consumer(consumer, outlet_, [] if own is None else own.topics)
    found.channels.sort(key=lambda channel: channel.id)
    for channel in found.channels:
        channel.receivings.sort(key=lambda each: each.consumer)
        for kinds in (
            *(each.kinds for each in channel.sendings),
            *(each.kinds for each in channel.receivings),
        ):
            kinds.sort()
    return found


def fit(name: str) -> str:
    """Return a name as an id that tools accept: letters, digits, `.`, `_` and `-`."""
    return _UNFIT.sub("-", name.replace("{", "").replace("}", "")).strip("-") or "-"


def unique(name: str, taken: Iterable[str]) -> str:
    """Return a name, or where it is taken the name with the first number that makes it new."""
    known = set(taken)
    number, found = 1, name
    while found in known:
        number += 1
        found = f"{name}-{number}"
    return found


class _Survey:
    """Fills a landscape, one route and one consumer after the other."""

    def __init__(self, found: Landscape) -> None:
        self._found = found
        self._channels: dict[tuple[str, str | None], Channel] = {}

    def add_outlet(self, outlet: Outlet) -> None:
        server = self._server(outlet)
        if outlet.settings.schemas is not None:
            known = self._found.registries.setdefault(server, set())
            known.add(public_url(outlet.settings.schemas.registry))
        for event_type in self._found.event_types:
            where = _undecided(outlet, event_type)
            if where is None:
                continue
            topic = _topic(outlet, event_type.name, event_type.version)
            channel = self._channel(outlet, server, topic)
            sending = next((each for each in channel.sendings if each.route == outlet.route), None)
            if sending is None:
                sending = Sending(outlet.route, where=where)
                channel.sendings.append(sending)
            sending.kinds.append(_kind(outlet, event_type.name, event_type.version))

    def add_consumer(
        self, consumer: Consumer, outlet: Outlet | None, topics: Sequence[str]
    ) -> None:
        handled = self._handled(consumer)
        known = self._found.consumers.setdefault(consumer.name, [])
        known.extend(kind for kind in handled if kind not in known)
        known.sort()
        if outlet is None:
            return
        server = self._server(outlet)
        for kind in handled:
            own = _topic(outlet, kind.name, kind.version or None)
            for topic in _received(own, topics):
                channel = self._channel(outlet, server, topic)
                self._receive(channel, consumer.name, outlet, kind)

    def _receive(self, channel: Channel, consumer: str, outlet: Outlet, kind: Kind) -> None:
        receiving = next((each for each in channel.receivings if each.consumer == consumer), None)
        if receiving is None:
            address = outlet.received_from(channel.topic or "", consumer)
            receiving = Receiving(consumer, address)
            channel.receivings.append(receiving)
        packed = _kind(outlet, kind.name, kind.version)
        if packed not in receiving.kinds:
            receiving.kinds.append(packed)

    def _handled(self, consumer: Consumer) -> list[Kind]:
        found: list[Kind] = []
        for name in consumer.handlers.types:
            versions = [each.version for each in self._found.event_types if each.name == name]
            taken = [each for each in versions if consumer.handlers.takes(name, each)]
            found += [Kind(name, version) for version in taken or [0]]
        return found

    def _server(self, outlet: Outlet) -> str:
        found = self._found
        server = next((id_ for id_, each in found.brokers.items() if each == outlet.broker), None)
        if server is None:
            server = unique(fit(outlet.route), found.brokers)
            found.brokers[server] = outlet.broker
        return server

    def _channel(self, outlet: Outlet, server: str, topic: str | None) -> Channel:
        address = None if topic is None else outlet.sent_to(topic)
        known = self._channels.get((server, address))
        if known is None:
            name = fit(f"{server}.{outlet.route if topic is None else topic}")
            id_ = unique(name, (each.id for each in self._found.channels))
            known = Channel(id_, server, outlet.transport, topic, address)
            self._channels[server, address] = known
            self._found.channels.append(known)
        return known


def _topic(outlet: Outlet, name: str, version: int | None) -> str | None:
    return None if outlet.template is None else topic_of(outlet.template, name, version)


def _received(own: str | None, topics: Sequence[str]) -> Sequence[str | None]:
    """Return the topics that events of one address are received from."""
    if not topics:
        return [own]
    likely = [topic for topic in topics if own is None or may_be(own, topic)]
    return likely or topics  # an event may have chosen its topic when it was emitted


def _undecided(outlet: Outlet, event_type: EventType) -> Mapping[str, Sequence[str]] | None:
    """Return what else has to match for a route to carry a type; None where it never does."""
    settings = outlet.settings
    if not any(fnmatchcase(event_type.name, glob) for glob in settings.types):
        return None
    where = dict(settings.where)
    versions = where.pop("version", ["*"])
    if not any(fnmatchcase(str(event_type.version), glob) for glob in versions):
        return None
    return where


def _kind(outlet: Outlet, name: str, version: int) -> Kind:
    schemas = outlet.settings.schemas
    packing: Packing = "json" if schemas is None else schemas.format_of(name)
    return Kind(name, version, "cloudevents" if outlet.is_structured else packing)
