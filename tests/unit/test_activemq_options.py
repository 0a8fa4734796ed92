"""The settings of a route on ActiveMQ."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from outbox.transports.activemq import Options
from outbox.transports.activemq.destinations import source, target

GOOD: dict[str, Any] = {"brokers": "mq-1:61613, [::1]:61614", "groups": ["billing"]}


def test_brokers_are_tried_in_their_order() -> None:
    assert Options(**GOOD).addresses == [("mq-1", 61613), ("::1", 61614)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"brokers": "mq-1"}, "no address"),
        ({"brokers": "mq-1:0"}, "no address"),
        ({"brokers": ""}, "no address"),
        ({"brokers": "me:hush@mq-1:61613"}, "an address has no login: set username and"),
        ({"groups": []}, "name the consumers"),
        ({"groups": [""]}, "name the consumers"),
        ({"destination": "queue"}, "name none"),
        ({"password": "p"}, "needs a username"),
        ({"username": "u\nheader:x"}, "end of a line"),
        ({"username": "u", "password": "p\nx"}, "end of a line"),
        ({"tls": {"key_file": "k.pem"}}, "need a certificate_file"),
        ({"topic": "{nothing}"}, "has a place"),
        ({"unknown": 1}, "Extra inputs"),
    ],
)
def test_what_cannot_work_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Options(**(GOOD | changed))


def test_no_password_is_shown() -> None:
    tls = {"certificate_file": "c.pem", "key_password": "hidden-1"}
    options = Options(**GOOD, username="u", password="hidden-2", tls=tls)
    assert "hidden" not in repr(options) + str(options)


def test_names_of_destinations() -> None:
    options = Options(**GOOD)
    assert target(options, "shop.order") == "/topic/VirtualTopic.shop.order"
    assert source(options, "billing", "t") == "/queue/Consumer.billing.VirtualTopic.t"
    assert source(options, "a.b*c", "t") == "/queue/Consumer.a%2Eb%2Ac.VirtualTopic.t"
    plain = Options(brokers="a:1", destination="queue")
    assert target(plain, "t") == source(plain, "any", "t") == "/queue/t"
