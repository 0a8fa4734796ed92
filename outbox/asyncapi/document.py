"""The AsyncAPI document of an application.

Source: AsyncAPI Specification 3.0.0. The same declarations and settings give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from outbox.asyncapi import messages
from outbox.asyncapi.landscape import fit, unique
from outbox.asyncapi.topics import location, places
from outbox.envelope import JSON_CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from outbox.asyncapi.landscape import Channel, Kind, Landscape, Receiving, Sending
    from outbox.formats.settings import SchemaSettings

ASYNCAPI: Final = "3.0.0"
_MEANINGS: Final = {
    "source": "Who published the event.",
    "subject": "What the event is about.",
    "partition_key": "The key that events are in order by.",
    "version": "Of the data's structure.",
}


@dataclass(frozen=True, slots=True)
class Info:
    """What the document says of itself."""

    title: str
    version: str
    """Of the document, as whoever writes it counts."""


def asyncapi(found: Landscape, info: Info, schemas: Mapping[str, SchemaSettings]) -> dict[str, Any]:
    """Return the document.

    `schemas` are the settings of the routes that convert events, by name. Raises
    `EventDefinitionError` where a class has no schema.
    """
    servers = _servers(found)
    names = _message_names(found)
    whole = {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": info.title,
            "version": info.version,
            "description": f"Events of {found.source}, as CloudEvents 1.0.",
        },
        "defaultContentType": JSON_CONTENT_TYPE,
        "servers": dict(servers),
        "channels": {each.id: _channel(each, found, names) for each in found.channels},
        "operations": dict(_operations(found, names)),
        "components": {
            "messages": {
                name: messages.message(kind, found.type_of(kind), _converting(kind, found, schemas))
                for kind, name in names.items()
            },
            "schemas": messages.envelope_schemas()
            | {
                messages.schema_name(each.name, each.version): messages.payload_schema(each)
                for each in found.event_types
            },
        },
    }
    return {name: each for name, each in whole.items() if each}


def pointer(*names: str) -> str:
    """Return a reference into the document."""
    return "/".join(["#", *(name.replace("~", "~0").replace("/", "~1") for name in names)])


def server_names(found: Landscape) -> dict[str, list[str]]:
    """Return, by the id of a broker, the names of its servers: one for each address."""
    names: dict[str, list[str]] = {}
    taken: list[str] = []
    for id_, broker in found.brokers.items():
        several = len(broker.hosts) > 1
        for number, _ in enumerate(broker.hosts, 1):
            name = unique(f"{id_}-{number}" if several else id_, taken)
            taken.append(name)
            names.setdefault(id_, []).append(name)
    return names


def _servers(found: Landscape) -> Iterator[tuple[str, dict[str, Any]]]:
    names = server_names(found)
    for id_, broker in found.brokers.items():
        registries = found.registries.get(id_, set())
        for name, host in zip(names[id_], broker.hosts, strict=True):
            server: dict[str, Any] = {"host": host, "protocol": broker.protocol}
            if broker.path is not None:
                server["pathname"] = broker.path
            if broker.protocol == "memory":
                server["description"] = "Inside the process; nothing outside can reach it."
            if len(registries) == 1 and broker.protocol.startswith("kafka"):
                (registry,) = registries
                server["bindings"] = {
                    "kafka": {
                        "schemaRegistryUrl": registry,
                        "schemaRegistryVendor": "confluent",
                        "bindingVersion": messages.KAFKA_BINDING,
                    }
                }
            yield name, server


def _message_names(found: Landscape) -> dict[Kind, str]:
    """Return what each message is called: a type may be named like another one's version."""
    names: dict[Kind, str] = {}
    for kind in found.kinds:
        names[kind] = unique(messages.message_name(kind), names.values())
    return names


def _channel(channel: Channel, found: Landscape, names: Mapping[Kind, str]) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "address": channel.address,
        "title": channel.topic or channel.id,
        "messages": {
            names[kind]: {"$ref": pointer("components", "messages", names[kind])}
            for kind in channel.kinds
        },
        "servers": [
            {"$ref": pointer("servers", name)} for name in server_names(found)[channel.server]
        ],
    }
    parameters = {name: _parameter(name, channel, found) for name in places(channel.address or "")}
    if parameters:
        whole["parameters"] = parameters
    return whole


def _parameter(name: str, channel: Channel, found: Landscape) -> dict[str, Any]:
    locations = {location(name, found.type_of(kind)) for kind in channel.kinds}
    parameter: dict[str, Any] = {"description": _MEANINGS[name]}
    if name == "source":
        parameter["default"] = found.source
    if len(locations) == 1 and None not in locations:
        parameter["location"] = locations.pop()
    return parameter


def _operations(
    found: Landscape, names: Mapping[Kind, str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    taken: list[str] = []
    for channel in found.channels:
        if channel.sendings:
            yield f"send.{channel.id}", _send(channel, found, names)
        for receiving in channel.receivings:
            name = unique(f"receive.{channel.id}.{fit(receiving.consumer)}", taken)
            taken.append(name)
            yield name, _receive(channel, receiving, names)


def _send(channel: Channel, found: Landscape, names: Mapping[Kind, str]) -> dict[str, Any]:
    kinds = sorted({kind for each in channel.sendings for kind in each.kinds})
    return {
        "action": "send",
        "title": f"Publish to {channel.topic or channel.id}",
        "description": " ".join(_published(each, found) for each in channel.sendings),
        **_about(channel, [names[kind] for kind in kinds]),
        "x-source": found.source,
        "x-routes": [each.route for each in channel.sendings],
    }


def _published(sending: Sending, found: Landscape) -> str:
    text = f"Published by the relay from {found.source}, by route {sending.route}"
    return f"{text}, where {conditions(sending)}." if sending.where else f"{text}."


def conditions(sending: Sending) -> str:
    """Say which events of its types a route carries."""
    each = [f"{name} is like {' or '.join(globs)}" for name, globs in sending.where.items()]
    return " and ".join(each)


def _receive(channel: Channel, receiving: Receiving, names: Mapping[Kind, str]) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "action": "receive",
        "title": f"{receiving.consumer} receives {channel.topic or channel.id}",
        "description": f"Handled once by consumer {receiving.consumer}.",
        **_about(channel, [names[kind] for kind in receiving.kinds]),
        "x-consumer": receiving.consumer,
    }
    if receiving.address != (channel.address or ""):
        whole["description"] += f" It receives from {receiving.address}."
    if channel.transport == "kafka":
        whole["bindings"] = {
            "kafka": {
                "groupId": {"type": "string", "const": receiving.consumer},
                "bindingVersion": messages.KAFKA_BINDING,
            }
        }
    return whole


def _about(channel: Channel, names: list[str]) -> dict[str, Any]:
    return {
        "channel": {"$ref": pointer("channels", channel.id)},
        "messages": [{"$ref": pointer("channels", channel.id, "messages", each)} for each in names],
    }


def _converting(
    kind: Kind, found: Landscape, schemas: Mapping[str, SchemaSettings]
) -> SchemaSettings | None:
    """Return the settings of the first route that writes a kind of event by a registry's schema."""
    for channel in found.channels:
        for sending in channel.sendings:
            if kind in sending.kinds and sending.route in schemas:
                return schemas[sending.route]
    return None
