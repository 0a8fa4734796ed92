"""`outbox relay --consume`: relay and workers in one process, as a route in memory needs them."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.acceptance.cli import Program, insert, killed
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

MODULE = """\
import sqlalchemy as sa
import outbox

URL = {url!r}
billing = outbox.Consumer("billing", database=URL)
audit = outbox.Consumer("audit", database=URL)
broken = outbox.Consumer("broken", database="sqlite:////nowhere/shop.db")

@billing.on("shop.order.placed")
@broken.on("shop.order.placed")
def bill(event, context):
    context.session.execute(sa.text("INSERT INTO effect VALUES ('billing')"))

@audit.on("shop.order.placed")
def record(event, context):
    context.session.execute(sa.text("INSERT INTO effect VALUES ('audit')"))
"""


@pytest.fixture
def program(tmp_path: Path, sqlite_url: str) -> Program:
    with sa.create_engine(sqlite_url, poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE effect (consumer TEXT)")
    (tmp_path / "shop.py").write_text(MODULE.format(url=sqlite_url))
    (tmp_path / "outbox.toml").write_text(
        f'database_url = "{sqlite_url}"\n[routes.local]\ntransport = "memory"\n'
    )
    return Program(tmp_path)


def effects(url: str) -> dict[str, int]:
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        rows = connection.exec_driver_sql("SELECT consumer, count(*) FROM effect GROUP BY 1")
        return {row[0]: row[1] for row in rows}


def test_all_that_is_there_is_processed_by_each(program: Program, sqlite_url: str) -> None:
    insert(sqlite_url, 7)
    both = ["--consume", "shop:billing", "--consume", "shop:audit"]
    done = program.run("relay", "--drain", *both)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "consumer billing: 7 handled",
        "consumer audit: 7 handled",
        "route local: 7 published",
    ]
    assert effects(sqlite_url) == {"billing": 7, "audit": 7}
    assert "0 published" in program.run("relay", "--drain", *both).stdout


def test_it_runs_until_it_is_told_to_stop(program: Program, sqlite_url: str) -> None:
    with killed(program.start("relay", "--consume", "shop:billing")) as relay:
        insert(sqlite_url, 3)
        eventually(lambda: effects(sqlite_url) == {"billing": 3})
        insert(sqlite_url, 2)
        eventually(lambda: effects(sqlite_url) == {"billing": 5})
        relay.send_signal(signal.SIGTERM)
        stdout, stderr = relay.communicate(timeout=30)
    assert relay.returncode == 0, stderr
    assert "consumer billing: 5 handled\nroute local: 5 published\n" in stdout


def test_what_a_killed_process_had_in_memory_is_processed_by_the_next(
    program: Program, sqlite_url: str
) -> None:
    insert(sqlite_url, 400)
    with killed(program.start("relay", "--consume", "shop:billing")) as relay:
        eventually(lambda: effects(sqlite_url))
        relay.kill()
        relay.communicate()
    done = program.run("relay", "--drain", "--consume", "shop:billing")
    assert done.returncode == 0, done.stderr
    assert effects(sqlite_url) == {"billing": 400}


def test_a_worker_that_cannot_go_on_ends_the_relay(program: Program, sqlite_url: str) -> None:
    insert(sqlite_url, 1)
    done = program.run("relay", "--consume", "shop:broken")
    assert done.returncode == 1
    assert "unable to open database file" in done.stderr.splitlines()[-1]


def test_a_memory_route_needs_a_consumer_in_the_process(program: Program) -> None:
    done = program.run("relay")
    assert done.returncode == 2
    assert "by `outbox relay --consume MODULE:CONSUMER`" in done.stderr
