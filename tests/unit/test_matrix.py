"""The matrix of transports: it says what the contract suite declares."""

from __future__ import annotations

import re

from benchmarks.matrix import CONTRACTS, matrix
from benchmarks.page import GUIDE, MARKED, MATRIX
from benchmarks.transports import makes
from outbox.bench.report import Series, report
from outbox.transports import MODULES


def test_the_page_says_what_the_suite_declares() -> None:
    (section,) = [match[0] for match in MARKED.finditer(GUIDE.read_text()) if match[2] == MATRIX]
    shown = [line.strip("| ").split(" | ") for line in section.splitlines() if "|" in line][2:]
    assert [row[:7] for row in shown] == [[*row[:7]] for row in matrix(None).rows]


def test_there_are_rows_and_figures_for_every_transport() -> None:
    names = [each.features.name for each in CONTRACTS]
    # A trail is no broker: nobody receives from it, and it is measured by itself.
    assert {re.split(",", name)[0] for name in names} == MODULES.keys() - {"audit"}
    assert [*makes("", "")] == names


def test_figures_stand_in_the_row_of_their_transport() -> None:
    figures = {"published_per_second": 1234.6, "received_per_second": 5.0}
    series = Series(kind="transports", where={}, rounds=[{"activemq": figures}])
    rows = {row[0]: row for row in matrix(report("transports", series=[series])).rows}
    assert rows["activemq"] == (
        "activemq",
        "of a key",
        "some events again",
        "waits, loses nothing",
        "has all it stored",
        "several",
        "nothing: settings name it first",
        "1,235",
        "5",
    )
    assert rows["memory"][4:] == ("is empty", "several", "what is left", "", "")
    assert rows["kafka"][2] == "each event once"
    assert rows["activemq, queue"][5] == "one"
