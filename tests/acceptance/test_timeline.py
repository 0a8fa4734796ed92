"""`outbox audit timeline`: a story for people, rows for scripts, and a page that is harmless."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.acceptance.cli import Program
from tests.storytelling import SOURCE, advance, caused, emit, forget, give_up, process, record

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "</title><script>alert(1)</script>\x1b[31m\u202e\"'&"


@pytest.fixture
def engine(sqlite_url: str) -> sa.Engine:
    return sa.create_engine(sqlite_url, poolclass=sa.NullPool)


@pytest.fixture
def program(tmp_path: Path, sqlite_url: str) -> Program:
    return Program(
        tmp_path,
        {
            "OUTBOX_DATABASE_URL": sqlite_url,
            "OUTBOX_SOURCE": SOURCE,
            "OUTBOX_ROUTES__KAFKA__TRANSPORT": "kafka",
            "OUTBOX_ROUTES__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9",
        },
    )


CHANGE = (
    b'{"operation": "updated", "key": "o-1", "identity": {"id": "o-1"},'
    b' "before": {"status": "new", "note": null}, "after": {"status": "paid", "note": "x"}}'
)


def tell(engine: sa.Engine) -> None:
    """An order is placed, billed, not shipped at first, and changed."""
    placed = emit(engine, "order.placed", 0, headers={"actor": "user:42"})
    issued = caused(engine, placed, "invoice.issued", 2, key="i-1", data=b'{"invoice": "i-1"}')
    advance(engine, "kafka", 3)
    process(engine, "billing", placed, 1)
    process(engine, "ledger", issued, 3)
    give_up(engine, "consumer", "shipping", placed, reason="no address", attempt_count=5)
    emit(engine, "order.changed", 60, data=CHANGE)


STORY = """\
o-1: 2 events, which caused 1 event

   2026-05-01 12:00:00Z  shop.order.placed v1 by user:42
                           {"order_id": "o-1"}
by 2026-05-01 12:00:01Z    delivered by kafka (kafka, topic shop.order)
   2026-05-01 12:00:01Z    processed by billing
   FAILED    shipping failed: 5 attempts: no address (letter 1)
    └─ 2026-05-01 12:00:02Z  shop.invoice.issued v1 of i-1 by b
                               {"invoice": "i-1"}
    by 2026-05-01 12:00:03Z    delivered by kafka (kafka, topic shop.invoice)
       2026-05-01 12:00:03Z    processed by ledger

   2026-05-01 12:01:00Z  shop.order.changed v1
                           updated, status: new → paid, note: null → x
                           waiting for kafka (kafka, topic shop.order)
"""


def test_it_reads_like_a_story(program: Program, engine: sa.Engine) -> None:
    tell(engine)
    done = program.call("audit", "timeline", "o-1")
    assert done.returncode == 0, done.stderr
    failed = next(line for line in done.stdout.splitlines() if "shipping" in line)
    shown = done.stdout.replace(failed[: failed.index("shipping")], "   FAILED    ")
    assert shown == STORY


def test_a_terminal_has_the_same_words_and_shows_what_failed(
    program: Program, engine: sa.Engine
) -> None:
    tell(engine)
    done = program.call("audit", "timeline", "o-1", FORCE_COLOR="1", TERM="xterm")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    styles = {re.sub(r"\x1b\[[0-9;]*m", "", line).strip(): line[:4] for line in lines}
    [failed] = [told for told in styles if "no address" in told]
    assert styles[failed] == "\x1b[31"
    assert styles["waiting for kafka (kafka, topic shop.order)"] == "\x1b[33"
    assert styles["2026-05-01 12:00:00Z  shop.order.placed v1 by user:42"] == "\x1b[1m"


def test_scripts_get_one_document(program: Program, engine: sa.Engine) -> None:
    tell(engine)
    record(engine, 5)
    forget(engine)
    found = json.loads(program.call("audit", "timeline", "o-1", "--json").stdout)
    assert (found["key"], found["is_cut"]) == ("o-1", False)
    placed, issued, changed = found["events"]
    assert placed["event"]["actor"] == "user:42"
    assert placed["is_stored"] is False
    assert "data" not in placed["event"]
    assert "data_base64" not in placed["event"]
    assert placed["audit"] == {
        "position": 1,
        "recorded_at": "2026-05-01T12:00:05Z",
        "differences": [],
    }
    assert placed["consumers"] == [
        {"consumer": "billing", "processed_at": "2026-05-01T12:00:01Z", "is_sure": True}
    ]
    assert placed["routes"][0]["by"] == "2026-05-01T12:00:01Z"
    [letter] = placed["dead_letters"]
    assert (letter["owner"], letter["attempt_count"]) == ("shipping", 5)
    assert issued["depth"] == 1
    assert issued["cause"] == {
        "id": placed["event"]["id"],
        "type": "shop.order.placed",
        "partitionkey": "o-1",
    }
    assert changed["cause"] is None


def test_spreadsheets_get_a_line_for_each_thing(program: Program, engine: sa.Engine) -> None:
    tell(engine)
    emit(engine, "order.noted", 90, subject="=1+1", headers={"actor": "\x1b[31m,\n"})
    lines = list(
        csv.DictReader(program.call("audit", "timeline", "o-1", "--csv").stdout.splitlines())
    )
    assert [(line["what"], line["who"], line["depth"]) for line in lines][:6] == [
        ("emitted", "user:42", "0"),
        ("delivered", "kafka", "0"),
        ("processed", "billing", "0"),
        ("failed", "shipping", "0"),
        ("emitted", "b", "1"),
        ("delivered", "kafka", "1"),
    ]
    assert lines[1]["time_is_latest"] == "yes"
    assert (lines[-2]["subject"], lines[-2]["who"]) == ("'=1+1", r"\x1b[31m,\n")


def test_a_forged_event_is_told_apart_from_its_record(
    program: Program, engine: sa.Engine, tmp_path: Path
) -> None:
    tell(engine)
    record(engine, 5)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            """UPDATE outbox_event SET data = '{"total": 1}', headers = '{"actor": "user:1"}'"""
            " WHERE type = 'shop.order.placed'"
        )
    told = "differs from the audit trail in actor, data"
    shown = program.call("audit", "timeline", "o-1").stdout
    assert shown.startswith("o-1: 2 events, which caused 1 event; 1 of them not as in the audit")
    assert shown.count(told) == 1
    placed, *others = json.loads(program.call("audit", "timeline", "o-1", "--json").stdout)[
        "events"
    ]
    assert placed["audit"]["differences"] == ["actor", "data"]
    assert [each["audit"]["differences"] for each in others] == [[], []]
    rows = csv.DictReader(program.call("audit", "timeline", "o-1", "--csv").stdout.splitlines())
    [row] = [row for row in rows if row["what"] == "differs"]
    assert (row["who"], row["detail"]) == ("audit", "actor, data")
    program.call("audit", "timeline", "o-1", "--html", "story.html")
    assert (
        f'<li class="red"><span class="when"></span><span>{told}'
        in (tmp_path / "story.html").read_text()
    )


def test_what_a_deleted_letter_may_have_told_is_not_claimed(
    program: Program, engine: sa.Engine
) -> None:
    placed = emit(engine, "order.placed", 0)
    process(engine, "billing", placed, -1e9)
    forgetful = {"OUTBOX_RETENTION__DEAD_LETTERS": "30d"}
    shown = program.call("audit", "timeline", "o-1", **forgetful).stdout
    assert "processed or set aside by billing: its letter would be deleted by now" in shown
    rows = program.call("audit", "timeline", "o-1", "--csv", **forgetful).stdout.splitlines()
    assert [row["what"] for row in csv.DictReader(rows)] == [
        "emitted",
        "delivered",
        "processed or set aside",
    ]


class Tags(HTMLParser):
    """Notes what a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_shows_what_an_event_says_and_does_none_of_it(
    program: Program, engine: sa.Engine, tmp_path: Path
) -> None:
    columns = {"key": HOSTILE, "subject": HOSTILE, "type": f"shop.{HOSTILE}"}
    placed = emit(engine, "", 0, data=HOSTILE.encode(), headers={"actor": HOSTILE}, **columns)
    give_up(engine, "consumer", "shipping", placed, reason=HOSTILE)
    done = program.call("audit", "timeline", HOSTILE, "--html", "story.html")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "story.html").read_text()
    found = Tags()
    found.feed(text)
    found.close()
    assert found.open == []
    assert "script" not in found.tags
    assert not found.attributes & {"src", "href", "onload", "onclick"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e" in text
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".html"] == ["story.html"]


def test_a_page_tells_the_whole_story(program: Program, engine: sa.Engine, tmp_path: Path) -> None:
    tell(engine)
    program.call("audit", "timeline", "o-1", "--html", "story.html")
    text = (tmp_path / "story.html").read_text()
    for told in (
        "user:42",
        "shop.invoice.issued",
        "no address",
        "processed by ledger",
        "new → paid",
    ):
        assert told in text


def test_a_time_that_nobody_can_read_is_shown_as_such(
    program: Program, engine: sa.Engine, tmp_path: Path
) -> None:
    emit(engine, "order.placed", 0)
    record(engine, 5)
    forget(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox_audit SET time = 'x', recorded_at = x'00'")
    told = [
        "   an unreadable time    shop.order.placed v1",
        "                           in the audit trail at position 1, at an unreadable time",
    ]
    shown = program.call("audit", "timeline", "o-1").stdout.splitlines()
    assert [line for line in shown if "unreadable" in line] == told
    [found] = json.loads(program.call("audit", "timeline", "o-1", "--json").stdout)["events"]
    assert "time" not in found["event"]
    assert found["audit"] == {"position": 1, "recorded_at": None, "differences": []}
    rows = csv.DictReader(program.call("audit", "timeline", "o-1", "--csv").stdout.splitlines())
    assert {(row["what"], row["time"]) for row in rows} == {("emitted", ""), ("recorded", "")}
    program.call("audit", "timeline", "o-1", "--html", "story.html")
    page = (tmp_path / "story.html").read_text()
    assert page.count("an unreadable time") == 2
    assert "<time" not in page


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        *(
            (("o-9", *form), 1, "there is no event with the key 'o-9'")
            for form in ((), ("--json",), ("--csv",), ("--html", "story.html"))
        ),
        (("o-1", "--limit", f"{2**63 - 1}"), 2, "less than or equal to 1000000"),
        (("o-1", "--json", "--csv"), 2, "choose one of --json, --csv and --html"),
        (("o-1", "--html", "none/story.html"), 1, "cannot write none/story.html: No such file"),
    ],
)
def test_what_cannot_be_told_is_one_sentence(
    program: Program, engine: sa.Engine, arguments: tuple[str, ...], code: int, said: str
) -> None:
    emit(engine, "order.placed", 0)
    done = program.call("audit", "timeline", *arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == ""
