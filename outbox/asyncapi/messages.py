"""Messages of AsyncAPI: CloudEvents with the data of one type and version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from outbox.asyncapi.payload import schema_object
from outbox.envelope import JSON_CONTENT_TYPE, SPEC_VERSION
from outbox.formats.wire import MEDIA_TYPES
from outbox.schema.document import document
from outbox.schema.meaning import KEY
from outbox.structured import CONTENT_TYPE

if TYPE_CHECKING:
    from outbox.asyncapi.landscape import Kind
    from outbox.event import EventType
    from outbox.formats.settings import SchemaSettings

HEADERS: Final = "cloudevents.headers"
"""Name of the schema of what stands in the headers of every message; no type's has it."""
OBJECT: Final = "cloudevents.object"
"""Name of the schema of every event that travels as one JSON object."""
SCHEMAS: Final = "#/components/schemas/"
MESSAGES: Final = "#/components/messages/"
KAFKA_BINDING: Final = "0.5.0"

_TEXT: Final = {"type": "string"}
_REQUIRED: Final[dict[str, dict[str, Any]]] = {
    "specversion": {"type": "string", "const": SPEC_VERSION},
    "id": {**_TEXT, "description": "Of the event; a repetition has the same."},
    "source": {"type": "string", "format": "uri-reference", "description": "Who published it."},
    "type": {**_TEXT, "description": "What happened."},
    "time": {"type": "string", "format": "date-time", "description": "When it was emitted."},
}
_OPTIONAL: Final[dict[str, dict[str, Any]]] = {
    "subject": {**_TEXT, "description": "What it is about."},
    "partitionkey": {
        **_TEXT,
        "description": "Events of one key are in order. On Kafka it is the record's key instead.",
    },
    "sequence": {
        "type": "string",
        "pattern": "^[0-9]{19}$",
        "description": "The event's number in the log of its database.",
    },
    "correlationid": {**_TEXT, "description": "Shared by all that began with one event."},
    "causationid": {**_TEXT, "description": "Id of the event whose handler emitted this one."},
    "actor": {**_TEXT, "description": "On whose behalf."},
    "traceparent": {**_TEXT, "description": "Of W3C Trace Context."},
    "tracestate": {**_TEXT, "description": "Of W3C Trace Context."},
    "dataschema": {**_TEXT, "description": "Where the schema of the data is."},
}
_VERSION: Final = "Of the data's structure."
_STRATEGIES: Final = {
    "record": "RecordNameStrategy",
    "topic": "TopicNameStrategy",
    "topic-record": "TopicRecordNameStrategy",
}


def envelope_schemas() -> dict[str, Any]:
    """Return the schemas that all messages share."""
    headers = {f"ce_{name}": each for name, each in (_REQUIRED | _OPTIONAL).items()}
    headers["ce_version"] = {"type": "string", "pattern": "^[0-9]+$", "description": _VERSION}
    headers["content-type"] = {**_TEXT, "description": "Media type of the data."}
    members: dict[str, Any] = _REQUIRED | _OPTIONAL
    members["version"] = {"type": "integer", "minimum": 1, "description": _VERSION}
    members["datacontenttype"] = {**_TEXT, "description": "Media type of the data."}
    members["outboxheaders"] = {**_TEXT, "description": "The application's own, as a JSON object."}
    return {
        HEADERS: {
            "type": "object",
            "description": "The attributes of a CloudEvent in binary mode, and what else the"
            " application sends.",
            "properties": headers,
            "required": [*(f"ce_{name}" for name in _REQUIRED), "ce_version", "content-type"],
        },
        OBJECT: {
            "type": "object",
            "description": "A CloudEvent in structured mode.",
            "properties": members,
            "required": [*_REQUIRED, "version"],
        },
    }


def schema_name(name: str, version: int) -> str:
    """Return what the schema of a type's data is called among the components."""
    return f"{name}.v{version}"


def message_name(kind: Kind) -> str:
    """Return what a message is called among the components."""
    name = schema_name(kind.name, kind.version) if kind.version else kind.name
    return name if kind.packing == "json" else f"{name}.{kind.packing}"


def payload_schema(event_type: EventType) -> Any:
    """Return the schema of a type's data, for its place among the components."""
    schema = document(event_type)
    schema.pop("examples", None)  # the message has them
    return schema_object(schema, SCHEMAS + schema_name(event_type.name, event_type.version))


def message(
    kind: Kind, event_type: EventType | None, schemas: SchemaSettings | None
) -> dict[str, Any]:
    """Return a message; `schemas` are the settings of a route that converts it."""
    title = f"{kind.name} v{kind.version}" if kind.version else kind.name
    found: dict[str, Any] = {"name": kind.name, "title": title}
    found["description"] = _description(kind, event_type)
    found["contentType"] = _content_type(kind)
    if kind.packing == "cloudevents":
        found["payload"] = _object(kind, event_type)
    else:
        found["headers"] = _headers(kind)
        if event_type is not None:
            found["payload"] = _data(event_type)
        found["correlationId"] = {"location": "$message.header#/ce_correlationid"}
        bindings = _kafka(kind, event_type, schemas)
        if bindings:
            found["bindings"] = {"kafka": {**bindings, "bindingVersion": KAFKA_BINDING}}
    if event_type is not None:
        found |= _said(event_type)
        examples = document(event_type).get("examples", [])
        if kind.packing != "cloudevents" and examples:
            found["examples"] = [
                {"name": f"example-{number}", "payload": each}
                for number, each in enumerate(examples, 1)
            ]
    return {name: each for name, each in found.items() if each is not None}


def _description(kind: Kind, event_type: EventType | None) -> str | None:
    if event_type is None:
        return "Not declared in this application: a consumer takes it as it comes."
    parts = [] if event_type.description is None else [event_type.description]
    if kind.packing in MEDIA_TYPES:
        parts.append(
            f"Its data travels as {kind.packing}, by a schema of the registry; the payload here is"
            " what its fields mean."
        )
    if event_type.personal:
        fields = ", ".join(map(str, event_type.personal))
        parts.append(f"Personal data, which may travel as encrypted text: {fields}.")
    return " ".join(parts) or None


def _said(event_type: EventType) -> dict[str, Any]:
    key = None if event_type.key is None else event_type.json_name(event_type.key)
    return {"x-version": event_type.version, "x-owner": event_type.owner, KEY: key}


def _content_type(kind: Kind) -> str | None:
    if kind.packing == "cloudevents":
        return CONTENT_TYPE
    if kind.packing in MEDIA_TYPES:
        return MEDIA_TYPES[kind.packing]
    return JSON_CONTENT_TYPE if kind.version else None  # who else publishes it decides


def _data(event_type: EventType) -> dict[str, Any]:
    return {"$ref": SCHEMAS + schema_name(event_type.name, event_type.version)}


def _headers(kind: Kind) -> dict[str, Any]:
    own: dict[str, Any] = {"ce_type": {"const": kind.name}}
    if kind.version:
        own["ce_version"] = {"const": str(kind.version)}
    return {"type": "object", "allOf": [{"$ref": SCHEMAS + HEADERS}], "properties": own}


def _object(kind: Kind, event_type: EventType | None) -> dict[str, Any]:
    own: dict[str, Any] = {"type": {"const": kind.name}}
    if kind.version:
        own["version"] = {"const": kind.version}
    if event_type is None:
        return {"type": "object", "allOf": [{"$ref": SCHEMAS + OBJECT}], "properties": own}
    own["data"] = _data(event_type)
    return {
        "type": "object",
        "allOf": [{"$ref": SCHEMAS + OBJECT}],
        "properties": own,
        "required": ["data"],
    }


def _kafka(
    kind: Kind, event_type: EventType | None, schemas: SchemaSettings | None
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if event_type is not None and event_type.key is not None:
        name = event_type.json_name(event_type.key)
        found["key"] = {"type": "string", "description": f"The data's {name}, as text."}
    if schemas is not None and kind.packing in MEDIA_TYPES:
        found["schemaIdLocation"] = "payload"
        found["schemaIdPayloadEncoding"] = "4"
        found["schemaLookupStrategy"] = _STRATEGIES[schemas.subject]
    return found
