from __future__ import annotations

import json
import sys
import unicodedata
from datetime import UTC, datetime, timedelta

import pytest

from outbox.cli.cells import csv_line
from outbox.cli.output import (
    CONTROLS,
    Column,
    counted,
    duration,
    fitted,
    json_text,
    plain_lines,
    visible,
)
from outbox.cli.times import since
from outbox.selection import like

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOSTILE = "\x1b]0;owned\x07\x9b31m\u202e\n[bold]\u200b\U000e0041"


def test_what_a_terminal_would_act_upon_is_written_out() -> None:
    assert visible(HOSTILE) == r"\x1b]0;owned\x07\x9b31m\u202e\n[bold]\u200b\U000e0041"


def test_all_that_nobody_sees_is_written_out_and_no_letter_is() -> None:
    """What this Python's Unicode does not know may be a format character of a later one."""
    unseen = {"Cc", "Cf", "Zl", "Zp"}
    for code in range(sys.maxunicode + 1):
        kind = unicodedata.category(chr(code))
        is_written_out = CONTROLS.match(chr(code)) is not None
        assert is_written_out == (kind in unseen) or (is_written_out and kind == "Cn"), hex(code)


def test_no_cell_is_a_formula_behind_what_nobody_sees() -> None:
    assert csv_line(["\ufeff=1+1", "=1"]) == r"\ufeff=1+1,'=1"


def test_json_is_harmless_on_a_terminal_and_still_the_same_value() -> None:
    text = json_text({"data": HOSTILE}, indent=True)
    assert not set("\x1b\x07\x9b\u202e\u200b\U000e0041") & set(text)
    assert json.loads(text) == {"data": HOSTILE}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.2, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (7_200, "2 h"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_number_goes_with_its_noun() -> None:
    assert [counted(count, "event") for count in (0, 1, 1200)] == [
        "0 events",
        "1 event",
        "1,200 events",
    ]


def test_plain_columns_are_padded_and_never_cut() -> None:
    columns = [Column("seq", right=True), Column("type"), Column("data", shrinks=True)]
    rows = [["1", "a", "x" * 200], ["10", "bb", ""]]
    assert plain_lines(columns, rows) == [
        "seq  type  data",
        "  1  a     " + "x" * 200,
        " 10  bb",
    ]


def test_only_columns_that_may_shrink_are_cut_to_fit_a_terminal() -> None:
    columns = [Column("seq"), Column("type", shrinks=True), Column("data", shrinks=True)]
    assert fitted(columns, [10, 20, 100], 80) == [10, 20, 50]
    assert fitted(columns, [10, 20, 100], 40) == [10, 15, 15]
    assert fitted(columns, [10, 20, 100], 5) == [10, 8, 8]
    assert fitted(columns, [3, 4, 5], 80) == [3, 4, 5]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("15m", NOW - timedelta(minutes=15)),
        ("3d", NOW - timedelta(days=3)),
        ("2026-04-30", datetime(2026, 4, 30, tzinfo=UTC)),
        ("2026-04-30T08:00", datetime(2026, 4, 30, 8, tzinfo=UTC)),
        ("2026-04-30T08:00+02:00", datetime(2026, 4, 30, 6, tzinfo=UTC)),
    ],
)
def test_a_time_is_a_moment_in_utc_or_an_age(text: str, moment: datetime) -> None:
    assert since(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "15", "15x", "-2h"])
def test_anything_else_is_no_time(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the message is written at the border
        since(text, NOW)


def test_a_glob_becomes_a_pattern_of_like() -> None:
    assert like(r"shop.*_a?%\b") == r"shop.%\_a_\%\\b"
