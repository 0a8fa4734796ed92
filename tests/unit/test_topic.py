from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from outbox.errors import ConfigurationError, RecordRefusedError
from outbox.testing import envelope
from outbox.transports.topic import TopicTemplate

if TYPE_CHECKING:
    from outbox.envelope import Envelope


def event(
    event_type: str = "shop.order.placed", topic: str | None = None, **changed: Any
) -> Envelope:
    return envelope(topic, type=event_type, **changed)


@pytest.mark.parametrize(
    ("template", "topic"),
    [
        ("{type_prefix}", "shop.order"),
        ("{type}", "shop.order.placed"),
        ("events", "events"),
        ("v{version}.{type}", "v3.shop.order.placed"),
        ("{subject}-{partition_key}", "order-1-k"),
    ],
)
def test_a_template_is_filled_from_the_event(template: str, topic: str) -> None:
    assert TopicTemplate(template).topic(event(version=3, subject="order-1")) == topic


def test_a_type_without_a_dot_is_its_own_prefix() -> None:
    assert TopicTemplate("{type_prefix}").topic(event("placed")) == "placed"


def test_an_event_that_chose_its_topic_keeps_it() -> None:
    assert TopicTemplate("{type}").topic(event(topic="chosen")) == "chosen"


@pytest.mark.parametrize(
    "text", ["{tenant}", "{type", "{type!r}", "{type:>9}", "{}", "{0}", "{type.x}", "a b", "", ".."]
)
def test_what_is_no_template_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="topic"):
        TopicTemplate(text)


def test_an_event_without_the_attribute_is_refused() -> None:
    with pytest.raises(RecordRefusedError, match="has no subject"):
        TopicTemplate("{subject}").topic(event())


@pytest.mark.parametrize("topic", ["a/b", "ü", "", ".", "x" * 250])
def test_a_name_that_no_broker_takes_is_refused(topic: str) -> None:
    with pytest.raises(RecordRefusedError, match="no name"):
        TopicTemplate("{type}").topic(event(topic=topic))
    with pytest.raises(RecordRefusedError):
        TopicTemplate("{type}").topic(event(topic))


def test_the_topic_of_a_type_is_known_where_it_depends_on_nothing_else() -> None:
    assert TopicTemplate("x.{type_prefix}").topic_of("a.b.c") == "x.a.b"
    assert TopicTemplate("{type}-{version}").topic_of("a.b.c") is None
