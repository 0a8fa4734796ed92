"""The official SDK of CloudEvents (`cloudevents` 2), and what it should see of our events."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import strategies as st

from outbox.codec import is_json, sequence_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudevents.core.base import BaseCloudEvent

    from outbox.envelope import Envelope

_OPTIONAL = {
    "subject": "subject",
    "dataschema": "dataschema",
    "partitionkey": "partition_key",
    "correlationid": "correlation_id",
    "causationid": "causation_id",
    "actor": "actor",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
}


def attributes_of(envelope: Envelope) -> dict[str, Any]:
    """Return the attributes of an event as the SDK should see them in binary mode."""
    found = {name: getattr(envelope, field) for name, field in _OPTIONAL.items()}
    return {
        **{name: value for name, value in found.items() if value is not None},
        **({} if envelope.sequence is None else {"sequence": sequence_text(envelope.sequence)}),
        "specversion": "1.0",
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
        "time": envelope.time,
        "datacontenttype": envelope.content_type,
        "version": str(envelope.version),
    }


def data_of(envelope: Envelope) -> Any:
    """Return the data of an event as the SDK should see it in binary mode."""
    if not envelope.data:
        return None
    if is_json(envelope.content_type):
        return json.loads(envelope.data)
    try:
        return envelope.data.decode()
    except UnicodeDecodeError:
        return envelope.data


def read_binary(key: bytes | None, headers: Mapping[str, bytes], data: bytes) -> BaseCloudEvent:
    """Read a message with headers `ce_…`, as Kafka's binding has them."""
    return kafka.from_kafka(kafka.KafkaMessage(dict(headers), key, data), JSONFormat())


def read_json(body: bytes) -> BaseCloudEvent:
    """Read an event in the JSON format."""
    return JSONFormat().read(None, body)


def equals(event: BaseCloudEvent, envelope: Envelope) -> bool:
    """Tell whether the SDK sees an event as it is; numbers may be numbers or text."""
    seen = {name: _canonical(value) for name, value in event.get_attributes().items()}
    return seen == attributes_of(envelope) and event.get_data() == data_of(envelope)


def text_of(value: Any) -> str:
    """Return the canonical text of an attribute."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _canonical(value: Any) -> Any:
    return str(value) if isinstance(value, int) else value


def message_of(event: BaseCloudEvent, *, structured: bool) -> kafka.KafkaMessage:
    """Let the SDK write a message for Kafka."""
    return (kafka.to_structured if structured else kafka.to_binary)(event, JSONFormat())


_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
# In offsets of whole minutes, which is all that RFC 3339 has. And where a zone changes its clocks a
# time there is equal to none of another zone (PEP 495).
_ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
_TIME = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=_ZONES)  # noqa: DTZ001  # Hypothesis adds the zone
_NAMES = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
    lambda name: (
        name not in {*_OPTIONAL, "data", "id", "source", "type", "time", "specversion", "version"}
        and name not in {"sequence", "datacontenttype", "outboxheaders", "datacontentencoding"}
    )
)
_JSON = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text()
)


@st.composite
def events(draw: st.DrawFn, extensions: st.SearchStrategy[Any] = _TEXT) -> CloudEvent:
    """Events as applications make them with the SDK."""
    media, data = draw(
        st.sampled_from([None, "application/json", "application/vnd.a+json"]).flatmap(
            lambda media: st.tuples(st.just(media), st.none() | _JSON)
        )
        | st.tuples(st.sampled_from(["text/plain", "text/csv; charset=utf-8"]), st.text())
        | st.tuples(st.just("application/octet-stream"), st.binary())
    )
    attributes = {
        **draw(st.dictionaries(_NAMES, extensions, max_size=3)),
        **draw(st.dictionaries(st.sampled_from(sorted(_OPTIONAL)), _TEXT, max_size=4)),
        "id": draw(_TEXT),
        "source": draw(_TEXT),
        "type": draw(_TEXT),
        "time": draw(_TIME),
    }
    if media is not None:
        attributes["datacontenttype"] = media
    return CloudEvent(attributes, data)


def matches(envelope: Envelope, event: BaseCloudEvent) -> bool:
    """Tell whether we see an event of the SDK as it is."""
    attributes = dict(event.get_attributes())
    expected = {
        "id": attributes.pop("id"),
        "source": attributes.pop("source"),
        "type": attributes.pop("type"),
        "time": attributes.pop("time"),
        "content_type": attributes.pop("datacontenttype", "application/json"),
        **{field: attributes.pop(name, None) for name, field in _OPTIONAL.items()},
    }
    attributes.pop("specversion")
    own = {f"ce_{name}": text_of(value) for name, value in attributes.items()}
    found = {name: getattr(envelope, name) for name in expected}
    return found == expected and envelope.headers == own and _same_data(envelope, event)


def _same_data(envelope: Envelope, event: BaseCloudEvent) -> bool:
    data = event.get_data()
    if isinstance(data, dict):
        return bool(json.loads(envelope.data) == data)
    expected = data.encode() if isinstance(data, str) else data
    return envelope.data == (expected or b"")
