"""What an event looks like at the broker, and what other clients' messages look like here."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.codec import ATTRIBUTES, from_headers
from outbox.errors import DecodeError, RecordRefusedError
from outbox.rows import to_row
from outbox.testing import envelope
from outbox.transports.activemq.encode import GROUPS, Encoder, to_message
from outbox.transports.activemq.frames import Frame, Parser

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
RESERVED = {"destination", "persistent", "transaction", "content-length", "content-type"}


def sent(*, limit: int = 1_000_000, **attributes: object) -> Frame:
    parser = Parser()
    event = envelope("orders", **attributes)  # type: ignore[arg-type]  # attributes by name
    parser.feed(Encoder(limit).frame(to_row(event), "/topic/VirtualTopic.orders", b"t"))
    frame = parser.next()
    assert frame is not None
    return frame


def test_an_event_is_persistent_and_has_its_attributes_in_headers() -> None:
    headers = sent(data=b"{}", subject="s", sequence=7).headers
    assert headers["destination"] == "/topic/VirtualTopic.orders"
    assert headers["persistent"] == "true"
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == "2"
    assert (headers["ce_type"], headers["ce_subject"]) == ("suite.case.ran", "s")
    assert (headers["ce_partitionkey"], headers["ce_sequence"]) == ("k", "0000000000000000007")


def test_a_key_has_one_of_so_many_groups_that_the_broker_remembers() -> None:
    groups = {sent(key=f"key-{n}").headers["JMSXGroupID"] for n in range(5_000)}
    assert len(groups) <= GROUPS < 1_024
    assert sent(key="key-1").headers["JMSXGroupID"] == sent(key="key-1").headers["JMSXGroupID"]
    assert "JMSXGroupID" not in sent(key=None).headers


def is_own(name: str) -> bool:
    """Tell whether emit lets an application's header have this name."""
    return name.lower() not in ATTRIBUTES and not name.lower().startswith("ce_")


@given(st.dictionaries(TEXT.filter(is_own), TEXT))
def test_an_applications_headers_are_java_identifiers_and_come_back(own: dict[str, str]) -> None:
    frame = sent(headers=own)
    for name in frame.headers.keys() - RESERVED:
        assert re.fullmatch(r"[A-Za-z_$][A-Za-z0-9_$]*", name)
    assert read(frame).headers == own


def test_headers_that_mean_something_to_the_broker_do_not_reach_it() -> None:
    own = {"destination": "/queue/other", "AMQ_SCHEDULED_DELAY": "60000", "JMSXGroupID": "1"}
    frame = sent(headers=own, key=None)
    assert frame.headers["destination"] == "/topic/VirtualTopic.orders"
    assert not own.keys() - {"destination"} & frame.headers.keys()
    assert read(frame).headers == own


def test_an_unknown_extension_keeps_its_name() -> None:
    frame = sent(headers={"ce_tenant": "a"})
    assert frame.headers["ce_tenant"] == "a"
    assert read(frame).headers == {"ce_tenant": "a"}
    assert read(frame).partition_key == "k"


def test_a_message_of_another_client_is_read() -> None:
    headers = {
        "destination": "/queue/x",
        "message-id": "1",
        "redelivered": "true",
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_source": "/s",
        "ce_type": "t",
        "tenant": "a",
        "JMSXGroupID": "g",
    }
    event = read(Frame("MESSAGE", headers, b"{}"))
    assert (event.id, event.headers, event.partition_key) == ("1", {"tenant": "a"}, None)


def test_a_message_that_is_no_event_is_told_apart() -> None:
    with pytest.raises(DecodeError):
        read(Frame("MESSAGE", {"destination": "/queue/x"}, b"{}"))


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"data": bytes(2_000), "limit": 2_000}, "max_message_bytes"),
        ({"subject": "s" * 10_240}, "ce_subject"),
        ({"headers": {"x-y": "v" * 10_240}}, "h_x$2Dy"),
        ({"headers": {"a": "\0"}}, "NUL"),
    ],
)
def test_what_the_broker_cannot_take_is_refused(attributes: dict[str, object], named: str) -> None:
    with pytest.raises(RecordRefusedError, match=re.escape(named)):
        sent(**attributes)  # type: ignore[arg-type]  # attributes by name


def read(frame: Frame):  # type: ignore[no-untyped-def]  # noqa: ANN201  # an Envelope
    message = to_message(frame, "orders")
    return from_headers(message.key, message.headers, message.data, topic=message.topic)
