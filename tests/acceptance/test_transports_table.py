"""The page's transport with both sides, between a relay and workers that are processes."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.acceptance.cli import Program, insert, killed
from tests.acceptance.test_transports import declared, install
from tests.pages import block, page
from tests.table import MODULE, PAGE, code, make_tables
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

CONSUMER = """\
import os, threading
from pathlib import Path
import outbox
import sqlalchemy as sa

billing = outbox.Consumer("billing", database={url!r})

@billing.on("shop.order.placed")
def bill(event, context):
    if "STUCK" in os.environ:
        Path(os.environ["STUCK"]).touch()
        threading.Event().wait()
    row = {{"key": context.envelope.partition_key, "number": context.envelope.sequence}}
    context.session.execute(sa.text("INSERT INTO effect VALUES (:key, :number)"), row)
"""


@pytest.fixture
def program(tmp_path: Path, sqlite_url: str) -> Program:
    """With the page's package, a route as the page has it, and a consumer of it."""
    site, file = tmp_path / "site", tmp_path / "events.db"
    site.mkdir()
    install(site, MODULE, declared(MODULE), **{MODULE: code()})
    make_tables(file)
    with sa.create_engine(sqlite_url, poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE effect (key TEXT, number INTEGER)")
    (tmp_path / "shop.py").write_text(CONSUMER.format(url=sqlite_url))
    route = block(page(PAGE), "toml", "routes.local").replace("/var/lib/shop/events.db", str(file))
    (tmp_path / "outbox.toml").write_text(
        f'database_url = "{sqlite_url}"\n{route}member_seconds = 1\n'
    )
    return Program(tmp_path, {"PYTHONPATH": str(site)})


def effects(url: str) -> dict[str, list[int]]:
    """Return the sequences of the events that had an effect, by key, as they had it."""
    found: dict[str, list[int]] = {}
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        for key, number in connection.exec_driver_sql("SELECT * FROM effect ORDER BY rowid"):
            found.setdefault(key, []).append(number)
    return found


def test_each_event_has_one_effect_though_a_worker_is_killed(
    program: Program, sqlite_url: str
) -> None:
    expected = {key: insert(sqlite_url, 20, partition_key=key) for key in ("a", "b", "c", "d")}
    done = program.run("relay", "--drain")
    assert (done.returncode, done.stdout) == (0, "route local: 80 published\n"), done.stderr
    stuck = program.folder / "stuck"
    with killed(program.start("consume", "shop:billing", STUCK=str(stuck))) as worker:
        eventually(stuck.exists)
        worker.kill()
        worker.communicate()
    assert effects(sqlite_url) == {}
    with (
        killed(program.start("relay")) as relay,
        killed(program.start("consume", "shop:billing")) as first,
        killed(program.start("consume", "shop:billing")) as second,
    ):
        for key in ("b", "e"):
            expected.setdefault(key, []).extend(insert(sqlite_url, 20, partition_key=key))
        eventually(lambda: effects(sqlite_url) == expected, why=lambda: effects(sqlite_url))
        for process in (relay, first, second):
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=30)
            # One of the workers may not have been up yet: the other one did all of it.
            is_early = process is not relay and process.returncode == -signal.SIGTERM
            assert process.returncode == 0 or is_early, stderr
    again = program.run("consume", "shop:billing", "--until-idle", "1")
    assert "0 handled" in again.stdout
    assert effects(sqlite_url) == expected
