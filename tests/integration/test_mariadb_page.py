"""What the page of databases says of MariaDB, looked up on a server and in the code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from outbox import engine as engines
from outbox.table import outbox_event
from relay.capture import portable
from relay.capture.portable import PortableCapture
from tests.deadlock import change, lose, stocked
from tests.emitting import Order, Shop, emit
from tests.pages import block, page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

PAGE = page("guide/databases.md")
SECTION = page("guide/databases.md", "MariaDB")


def row_of(name: str) -> list[str]:
    """Return the cells of a row of the table that compares the databases."""
    (line,) = re.findall(rf"^\| {name} \|(.*)\|$", PAGE, re.MULTILINE)
    return [cell.strip() for cell in line.split("|")]


def as_the_page_says(url: str) -> dict[str, Any]:
    """Run the page's own lines, on another database."""
    code = block(SECTION, "python")
    theirs = "mariadb+pymysql://shop@localhost/shop"
    assert code.count(theirs) == 1
    names: dict[str, Any] = {}
    exec(code.replace(theirs, url), names)  # noqa: S102  # a page of ours
    return names


@pytest.fixture
def shop(mariadb_engine: sa.Engine) -> Shop:
    return stocked(mariadb_engine)


class Work:
    """Changes an order and tells of it; loses a deadlock the first so many times."""

    def __init__(self, shop: Shop, losses: int) -> None:
        self._shop = shop
        self._losses = losses
        self.attempts = 0

    def __call__(self, session: Session) -> str:
        self.attempts += 1
        change(session, 1)
        emit(session, f"attempt {self.attempts}")
        session.flush()
        if self.attempts <= self._losses:
            lose(self._shop, session)
        return "done"


def test_a_transaction_that_lost_a_deadlock_is_run_again_with_its_event(
    shop: Shop, mariadb_url: str
) -> None:
    page = as_the_page_says(mariadb_url)
    work = Work(shop, losses=1)
    assert page["in_transaction"](work) == "done"
    page["engine"].dispose()
    assert shop.names() == ["attempt 2"]
    with shop.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.sum(Order.total))) == 1


def test_what_the_page_runs_again_ends_and_other_errors_are_not_tried_again(
    shop: Shop, mariadb_url: str
) -> None:
    page = as_the_page_says(mariadb_url)
    work = Work(shop, losses=2)
    with pytest.raises(sa.exc.OperationalError, match="1213"):
        page["in_transaction"](work, attempts=2)
    assert work.attempts == 2
    calls: list[Session] = []

    def wrong(session: Session) -> None:
        calls.append(session)
        session.execute(sa.text("SELECT no_such_column"))

    with pytest.raises(sa.exc.OperationalError, match="1054"):
        page["in_transaction"](wrong)
    assert len(calls) == 1
    page["engine"].dispose()
    assert shop.names() == []


def test_the_variables_of_the_page_are_the_server_s_and_come_like_that(
    mariadb_engine: sa.Engine,
) -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", SECTION, re.MULTILINE))
    assert len(told) == 9
    query = sa.text(
        "SELECT LOWER(variable_name), default_value FROM information_schema.system_variables"
        " WHERE variable_name IN :names"
    ).bindparams(sa.bindparam("names", list(told), expanding=True))
    with mariadb_engine.connect() as connection:
        found = {name: value.removesuffix(".000000") for name, value in connection.execute(query)}
    assert found == told


def test_the_page_tells_how_long_a_gap_is_kept() -> None:
    assert portable._gap_seconds(50) == 60
    assert portable._gap_seconds(100) == 120
    assert f"kept for {portable.GAP_SECONDS} s, or 1.2 times this" in SECTION
    assert f"{portable.MAX_GAPS:,} of them at once" in SECTION
    assert f"{portable.CHUNK} gaps" in row_of("statements of a page with events")[1]


@pytest.fixture
def sent(mariadb_url: str) -> Iterator[tuple[PortableCapture, list[str]]]:
    """A capture, and the statements that it has sent so far."""
    statements: list[str] = []
    engine = engines.make_engine(sa.make_url(mariadb_url), "relay", poolclass=sa.NullPool)
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    capture = PortableCapture(engine, "/test")
    yield capture, statements
    capture.close()


def test_the_page_tells_how_many_statements_a_look_is(
    sent: tuple[PortableCapture, list[str]], mariadb_engine: sa.Engine
) -> None:
    capture, statements = sent
    row = {"type": "test.happened", "data": b"{}"}
    position = capture.beginning()

    def look() -> int:
        nonlocal position
        before = len(statements)
        position = capture.next_page(position, 10).position()
        return len(statements) - before

    def insert(*, is_kept: bool) -> None:
        with mariadb_engine.connect() as connection:
            connection.execute(sa.insert(outbox_event).inline(), row)
            (connection.commit if is_kept else connection.rollback)()

    capture._next_close = float("inf")  # now and then it looks at old gaps as well
    empty = look()
    insert(is_kept=True)
    full = look()
    insert(is_kept=False)
    insert(is_kept=True)
    look()
    empty_with_gap = look()
    insert(is_kept=True)
    full_with_gap = look()
    _, idle, _ = row_of("statements of a look that finds nothing")
    _, busy, _ = row_of("statements of a page with events")
    assert idle == f"{empty}; with gaps {empty_with_gap}"
    assert busy.startswith(f"{full}; with gaps {full_with_gap}, ")
