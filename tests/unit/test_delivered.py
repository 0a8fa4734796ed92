"""What may be deleted, told from stored positions alone."""

from __future__ import annotations

import re
from typing import Any

import pytest

from outbox.settings import RouteSettings
from relay.capture.gap import Gap
from relay.capture.position import (
    LatePass,
    PortablePosition,
    SerialPosition,
    Server,
    SnapshotPosition,
)
from relay.delivered import Delivered, Held, delivered

HERE = Server("7001", "2a9ae0f1-5a0e-4b9a-8f3e-0d5e3f0a3c11")
ROUTE = RouteSettings(transport="memory")
NOW = RouteSettings(transport="memory", start="now")
THIRD = RouteSettings(transport="memory", start=3)


def at(floor: int, snapshot: str = "10:10:", late: LatePass | None = None) -> dict[str, Any]:
    return SnapshotPosition(floor, snapshot, late, HERE).to_json()


def told(settings: dict[str, RouteSettings], **stored: dict[str, Any] | None) -> Delivered | Held:
    return delivered(settings, stored, "postgresql", "7001")


def test_the_slowest_route_says_the_number_and_each_one_what_it_saw() -> None:
    found = told({"a": ROUTE, "b": ROUTE}, a=at(9, "10:12:11"), b=at(4), c=at(7, "10:12:11"))
    assert found == Delivered(4, ("10:12:11", "10:10:"), "b")


def test_what_a_late_pass_delivered_waits_for_its_end() -> None:
    late = LatePass("12:12:", (11,), cursor=5)
    assert told({"a": ROUTE}, a=at(9, "10:12:11", late)) == Delivered(9, ("10:12:11",), "a")


@pytest.mark.parametrize(
    ("settings", "stored", "reason"),
    [
        ({"a": ROUTE, "b": ROUTE}, {"a": at(9)}, "route b never ran"),
        ({"a": ROUTE}, {"a": at(9), "gone": None}, "route gone has no position yet"),
        ({"a": ROUTE, "b": THIRD}, {"a": at(9)}, "route b never ran"),
        ({"a": NOW}, {}, "no route has run yet"),
        ({"a": NOW}, {"a": None}, "no route has run yet"),
        ({}, {}, "no route has run yet"),
        (
            {},
            {"a": SnapshotPosition(9, "10:10:", None, Server("7002", HERE.incarnation)).to_json()},
            "route a: .*--rebase",
        ),
        ({}, {"a": SerialPosition(9).to_json()}, "route a: .*another kind of database"),
        ({}, {"a": {"kind": "unheard of"}}, "route a: .*cannot be read"),
    ],
)
def test_nothing_may_go_while_a_route_does_not_say_what_it_has(
    settings: dict[str, RouteSettings], stored: dict[str, Any], reason: str
) -> None:
    found = told(settings, **stored)
    assert isinstance(found, Held)
    assert re.match(reason, found.reason)


def test_a_route_that_will_start_with_what_is_new_needs_nothing_old() -> None:
    assert told({"a": ROUTE, "b": NOW}, a=at(9)) == Delivered(9, ("10:10:",), "a")


def test_where_writers_take_turns_the_number_is_enough() -> None:
    stored = {"a": SerialPosition(9).to_json(), "b": SerialPosition(7).to_json()}
    assert delivered({}, stored, "sqlite", None) == Delivered(7, (), "b")


def test_where_numbers_are_missing_only_what_lies_before_the_first_may_go() -> None:
    missing = PortablePosition(9, (Gap(5, 6, 0), Gap(8, 8, 0)), HERE).to_json()
    stored = {"a": missing, "b": PortablePosition(7, (), HERE).to_json()}
    assert delivered({}, stored, "mariadb", None) == Delivered(4, (), "a")
