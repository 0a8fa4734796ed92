"""What settings of PostgreSQL mean for the relay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from relay.pooler import Pooling
from relay.selfcheck import judge, judge_pooling

if TYPE_CHECKING:
    from relay.finding import Finding

GOOD = {
    "server_version": "15.6",
    "server_version_num": "150006",
    "synchronous_commit": "on",
    "fsync": "on",
    "full_page_writes": "on",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "repeatable read",
    "max_connections": "103",
    "superuser_reserved_connections": "3",
}


def remarks(settings: dict[str, str] | None = None, used: int = 10) -> list[Finding]:
    """Return what is not in order."""
    return [finding for finding in judge(GOOD | (settings or {}), used) if finding.state != "ok"]


def test_a_server_as_it_comes_is_in_order() -> None:
    assert remarks() == []
    assert [finding.check for finding in judge(GOOD, 10)] == [
        "version",
        "durability",
        "time-outs",
        "transactions",
        "connections",
    ]


@pytest.mark.parametrize(
    ("settings", "check", "state", "words"),
    [
        ({"server_version_num": "120022"}, "version", "failed", "13 or newer"),
        ({"fsync": "off"}, "durability", "degraded", "fsync = on"),
        ({"full_page_writes": "off"}, "durability", "degraded", "full_page_writes = on"),
        ({"synchronous_commit": "off"}, "durability", "degraded", "synchronous_commit = on"),
        ({"statement_timeout": "29999"}, "time-outs", "degraded", "SET statement_timeout = 0"),
        ({"lock_timeout": "1"}, "time-outs", "degraded", "SET lock_timeout = 0"),
        ({"idle_session_timeout": "5"}, "time-outs", "degraded", "SET idle_session_timeout = 0"),
        ({"transaction_timeout": "5"}, "time-outs", "degraded", "SET transaction_timeout = 0"),
        ({"default_transaction_read_only": "on"}, "transactions", "failed", "read_only = off"),
        (
            {"default_transaction_isolation": "serializable"},
            "transactions",
            "degraded",
            "'read committed'",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_hurts_is_told_with_what_to_do(
    settings: dict[str, str], check: str, state: str, words: str
) -> None:
    (remark,) = remarks(settings)
    assert (remark.check, remark.state) == (check, state)
    assert words in (remark.advice or "")


def test_a_time_out_of_half_a_minute_is_long_enough() -> None:
    assert remarks({"statement_timeout": "30000"}) == []


def test_connections_that_are_nearly_used_up_are_told() -> None:
    assert remarks(used=89) == []
    (remark,) = remarks(used=90)
    assert remark.check == "connections"
    assert remark.found.startswith("90 of 100 connections")


def test_a_pooler_takes_something_only_in_transaction_mode() -> None:
    states = {pooling: judge_pooling(pooling).state for pooling in Pooling}
    assert states == {
        Pooling.NONE: "ok",
        Pooling.SESSION: "ok",
        Pooling.TRANSACTION: "degraded",
    }
