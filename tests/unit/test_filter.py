"""Which events a route carries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from outbox.envelope import Envelope
from outbox.rows import Rows
from relay import filter as filters
from relay.filter import EventFilter


def event(**changed: Any) -> Envelope:
    values: dict[str, Any] = {
        "id": "1",
        "source": "/shop/eu",
        "type": "shop.order.placed",
        "time": datetime(2026, 1, 1, tzinfo=UTC),
        "data": b"{}",
    }
    return Envelope(**(values | changed))


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (["*"], [0, 1, 2]),
        (["shop.*"], [0, 1]),
        (["shop.order.*", "till.*"], [0, 2]),
        (["Shop.*"], []),
    ],
)
def test_types_are_chosen_by_globs(globs: list[str], expected: list[int]) -> None:
    names = ["shop.order.placed", "shop.stock", "till.opened"]
    events = Rows.of([event(type=name) for name in names])
    chooser = EventFilter(globs, {})
    assert list(chooser.select(events)) == expected
    assert list(chooser.select(events)) == expected


def test_the_filter_forgets_when_there_are_too_many_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "KNOWN_TYPES", 2)
    chooser = EventFilter(["t1*"], {})
    events = Rows.of([event(type=f"t{index}") for index in range(13)])
    assert list(chooser.select(events)) == [1, 10, 11, 12]
    assert list(chooser.select(events)) == [1, 10, 11, 12]


EVENTS = [
    event(),
    event(subject="order/1", partition_key="k-1", headers={"tenant": "acme"}),
    event(source="/shop/us", subject="order/2", actor="user:1", headers={"tenant": "globex"}),
    event(version=2, content_type="text/plain", topic="t", correlation_id="c"),
    event(type="shop.stock.moved", subject="order/3", headers={"tenant": "acme"}),
]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"source": ["/shop/eu"]}, [0, 1, 3]),
        ({"source": ["/shop/u?", "/shop/x*"]}, [2]),
        ({"subject": ["*"]}, [1, 2]),
        ({"partitionkey": ["k-*"]}, [1]),
        ({"tenant": ["acme", "globex"]}, [1, 2]),
        ({"tenant": ["acme"], "subject": ["order/*"]}, [1]),
        ({"tenant": ["acme"], "source": ["/shop/us"]}, []),
        ({"actor": ["user:*"]}, [2]),
        ({"correlationid": ["c"]}, [3]),
        ({"version": ["2"]}, [3]),
        ({"datacontenttype": ["text/*"]}, [3]),
        ({"topic": ["t"]}, [3]),
        ({"unheard-of": ["*"]}, []),
    ],
)
def test_events_are_chosen_by_attributes(where: dict[str, list[str]], expected: list[int]) -> None:
    chooser = EventFilter(["shop.order.*"], where)
    assert list(chooser.select(Rows.of(EVENTS))) == expected
