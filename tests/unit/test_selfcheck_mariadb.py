"""What settings of MariaDB mean for the relay."""

from __future__ import annotations

import pytest

from relay.selfcheck_mariadb import judge

GOOD = {
    "version": "10.11.19-MariaDB-0+deb12u1",
    "innodb_flush_log_at_trx_commit": "1",
    "innodb_doublewrite": "ON",
    "innodb_rollback_on_timeout": "OFF",
    "max_statement_time": "0.000000",
    "wait_timeout": "28800",
    "read_only": "OFF",
    "tx_read_only": "OFF",
    "log_bin": "ON",
    "binlog_format": "MIXED",
    "max_connections": "151",
}


def test_a_server_as_it_comes_is_in_order() -> None:
    found = list(judge(GOOD, 10))
    assert {finding.state for finding in found} == {"ok"}
    assert [finding.check for finding in found] == [
        "version",
        "durability",
        "time-outs",
        "transactions",
        "connections",
    ]


@pytest.mark.parametrize(
    ("variables", "check", "state", "words"),
    [
        ({"version": "10.5.29-MariaDB"}, "version", "failed", "10.6 or newer"),
        ({"version": "8.0.36"}, "version", "failed", "MariaDB only"),
        ({"innodb_doublewrite": "OFF"}, "durability", "degraded", "innodb_doublewrite = ON"),
        ({"innodb_flush_log_at_trx_commit": "2"}, "durability", "degraded", "at_trx_commit = 1"),
        ({"max_statement_time": "5.000000"}, "time-outs", "degraded", "max_statement_time = 0"),
        ({"wait_timeout": "10"}, "time-outs", "degraded", "wait_timeout = 28800"),
        ({"read_only": "ON"}, "transactions", "failed", "lead to the primary"),
        ({"tx_read_only": "ON"}, "transactions", "failed", "tx_read_only = OFF"),
        ({"binlog_format": "STATEMENT"}, "transactions", "failed", "MIXED or ROW"),
        ({"innodb_rollback_on_timeout": "ON"}, "transactions", "degraded", "timeout = OFF"),
        ({"max_connections": "11"}, "connections", "degraded", "raise max_connections"),
    ],
)
def test_what_is_not_in_order_is_told_with_what_to_do(
    variables: dict[str, str], check: str, state: str, words: str
) -> None:
    (finding,) = [each for each in judge(GOOD | variables, 10) if each.state != "ok"]
    assert (finding.check, finding.state) == (check, state)
    assert words in (finding.advice or "")


def test_statements_in_no_binary_log_are_of_no_concern() -> None:
    variables = GOOD | {"log_bin": "OFF", "binlog_format": "STATEMENT"}
    assert {finding.state for finding in judge(variables, 10)} == {"ok"}
