"""What goes wrong at the command line ends in one sentence that says what to do."""

from __future__ import annotations

import select
import signal
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from outbox.dead_letter import Failure
from outbox.table import outbox_checkpoint
from tests.acceptance.cli import Program, envelope, insert, set_aside

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

PASSWORD = "hunter2-is-secret"
NOWHERE = "127.0.0.1:9"
KAFKA = {
    "OUTBOX_ROUTES__KAFKA__TRANSPORT": "kafka",
    "OUTBOX_ROUTES__KAFKA__BOOTSTRAP_SERVERS": NOWHERE,
}


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Without any settings."""
    return Program(tmp_path)


@pytest.fixture
def settled(tmp_path: Path, sqlite_url: str) -> Program:
    """With a migrated database and a route."""
    return Program(tmp_path, {"OUTBOX_DATABASE_URL": sqlite_url, **KAFKA})


def sentence(done: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """Return the one line that a failure printed."""
    assert done.returncode == exit_code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert PASSWORD not in lines[0]
    return lines[0].removeprefix("error: ")


def test_an_unknown_command_names_the_help(program: Program) -> None:
    found = sentence(program.run("relais"), 2)
    assert found.startswith("no such command 'relais'")
    assert found.endswith("(see `outbox --help`)")


def test_an_unknown_option_names_the_help_of_its_command(settled: Program) -> None:
    found = sentence(settled.run("relay", "--dry"), 2)
    assert found.startswith("no such option")
    assert found.endswith("(see `outbox relay --help`)")


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["migrate"], ["relay"], ["events", "list"], ["dead-letters", "list"]],
    ids=" ".join,
)
def test_without_settings_it_says_how_to_give_them(program: Program, arguments: list[str]) -> None:
    found = sentence(program.call(*arguments), 2)
    assert found == (
        'there are no settings: set OUTBOX_DATABASE_URL, or write database_url = "…" into'
        " outbox.toml here or into a file that --config names"
    )


def test_a_settings_file_that_is_not_there_is_named(program: Program) -> None:
    found = sentence(program.call("--config", "nowhere.toml", "status"), 2)
    assert found == "cannot read the settings file nowhere.toml: No such file or directory"


def test_bad_toml_is_told_with_file_and_line(program: Program) -> None:
    (program.folder / "outbox.toml").write_text('source = "/shop"\ndatabase_url =\n')
    found = sentence(program.run("status"), 2)
    assert found.startswith("outbox.toml is no valid TOML: ")
    assert "line 2" in found


def test_a_setting_that_there_is_not_is_named(program: Program) -> None:
    (program.folder / "outbox.toml").write_text('databse_url = "sqlite://"\n')
    found = sentence(program.call("status"), 2)
    assert found == (
        "in outbox.toml: database_url: is missing; databse_url: there is no such setting"
    )


@pytest.mark.parametrize("start", ["yesterday", "0", "-1", "2026-13-01", ""])
def test_a_start_that_is_none_is_told_what_it_may_be(settled: Program, start: str) -> None:
    found = sentence(settled.call("status", OUTBOX_ROUTES__KAFKA__START=start), 2)
    assert "routes.kafka.start: is neither beginning nor now, nor a time such as" in found


@pytest.mark.parametrize("start", ["true", "0", "1.5", '["now"]'])
def test_a_start_in_the_file_is_checked_as_well(settled: Program, start: str) -> None:
    (settled.folder / "outbox.toml").write_text(f"[routes.kafka]\nstart = {start}\n")
    assert "routes.kafka.start: is neither" in sentence(settled.call("status"), 2)


@pytest.mark.parametrize(
    "start", ["2026-05-01T08:00:00Z", "2026-05-01T08:00:00", "2026-05-01", "7", '"now"']
)
def test_a_start_in_the_file_may_be_a_time_or_a_number(settled: Program, start: str) -> None:
    (settled.folder / "outbox.toml").write_text(f"[routes.kafka]\nstart = {start}\n")
    assert settled.call("status").returncode == 0


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ('{"time": "x"}', "routes.kafka.where: a route cannot choose events by time"),
        ('{"tenant": []}', "routes.kafka.where.tenant: "),
        ('{"tenant": 7}', "routes.kafka.where.tenant: "),
        ('"tenant"', "routes.kafka.where: "),
    ],
)
def test_attributes_that_cannot_be_chosen_by_are_named(
    settled: Program, where: str, said: str
) -> None:
    assert said in sentence(settled.call("status", OUTBOX_ROUTES__KAFKA__WHERE=where), 2)


def test_a_list_in_the_environment_that_is_no_json_is_told_how_to_write(settled: Program) -> None:
    done = settled.call("status", OUTBOX_ROUTES__KAFKA__TYPES="shop.*")
    assert sentence(done, 2) == (
        "in the environment: a list or a table is no JSON; write for instance"
        """ OUTBOX_ROUTES__KAFKA__TYPES='["shop.*"]'"""
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres", "is no SQLAlchemy URL"),
        (f"postgress://app:{PASSWORD}@host/shop", "a database that SQLAlchemy does not know"),
        (f"postgresql+psycopg2://app:{PASSWORD}@host/shop", "the driver 'psycopg2', which is not"),
        (f"postgresql+asyncpg://app:{PASSWORD}@host/shop", "the async driver postgresql+asyncpg"),
        (f"mariadb://app:{PASSWORD}@host/shop", "write mariadb+pymysql://"),
        (f"mariadb+asyncmy://app:{PASSWORD}@host/shop", "the async driver mariadb+asyncmy"),
        (f"mariadb+pymysql://app:{PASSWORD}@host", "write mariadb+pymysql://user@host/database"),
    ],
)
def test_a_wrong_database_url_is_told_without_its_password(
    program: Program, url: str, expected: str
) -> None:
    assert expected in sentence(program.call("status", OUTBOX_DATABASE_URL=url, **KAFKA), 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["migrate"],
        ["relay"],
        ["relay", "--drain"],
        ["events", "tail"],
        ["dead-letters", "list"],
        ["replay", "--route", "kafka", "--beginning"],
        ["routes", "rewind", "kafka", "--beginning"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mariadb+pymysql"])
def test_a_database_that_is_down_is_named_without_its_password(
    program: Program, driver: str, arguments: list[str]
) -> None:
    url = f"{driver}://app:{PASSWORD}@{NOWHERE}/shop"
    found = sentence(program.call(*arguments, OUTBOX_DATABASE_URL=url, **KAFKA), 1)
    assert "Connection refused" in found
    assert f"{driver}://app:***@127.0.0.1:9/shop" in found or "127.0.0.1" in found


@pytest.mark.parametrize("arguments", [["status"], ["migrate"], ["relay"], ["events", "list"]])
def test_what_a_server_of_mariadb_refuses_is_told_with_what_to_do(
    program: Program, arguments: list[str], mariadb_empty_url: str
) -> None:
    url = sa.make_url(mariadb_empty_url)
    for wrong, words in (
        (url.set(username="nobody-here", password=PASSWORD), "nobody-here"),
        (url.set(database="no_such_shop"), "no_such_shop"),
    ):
        text = wrong.render_as_string(hide_password=False)
        found = sentence(program.call(*arguments, OUTBOX_DATABASE_URL=text, **KAFKA), 1)
        assert words in found
        assert f"{wrong.host}:{wrong.port}" in found
        assert "database_url" in found


def test_a_wrong_password_is_not_printed(program: Program, postgres_url: str) -> None:
    url = sa.make_url(postgres_url).set(username="nobody-here", password=PASSWORD)
    text = url.render_as_string(hide_password=False)
    found = sentence(program.run("status", OUTBOX_DATABASE_URL=text, **KAFKA), 1)
    assert "nobody-here" in found


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["relay"],
        ["relay", "--drain"],
        ["events", "list"],
        ["events", "show", "1"],
        ["events", "tail"],
        ["dead-letters", "list"],
        ["dead-letters", "replay", "--all"],
        ["replay", "--route", "kafka", "--beginning"],
        ["routes", "rewind", "kafka", "--beginning"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("database", ["sqlite", "postgres", "mariadb"])
def test_missing_tables_are_told_with_the_command_that_makes_them(
    program: Program, arguments: list[str], database: str, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{program.folder / 'empty.db'}"
    if database != "sqlite":
        url = request.getfixturevalue(f"{database}_empty_url")
    found = sentence(program.call(*arguments, OUTBOX_DATABASE_URL=url, **KAFKA), 1)
    assert "`outbox migrate`" in found


def test_settings_without_a_route_say_what_to_add(program: Program, sqlite_url: str) -> None:
    found = sentence(program.call("relay", OUTBOX_DATABASE_URL=sqlite_url), 2)
    assert found == 'the settings have no route: add [routes.NAME] with transport = "…"'


@pytest.mark.parametrize(
    "arguments",
    [
        ["relay", "--route", "kafak"],
        ["replay", "--route", "kafak", "--beginning"],
        ["routes", "rewind", "kafak", "--beginning"],
        ["dead-letters", "list", "--route", "kafak"],
    ],
    ids=" ".join,
)
def test_an_unknown_route_is_told_with_the_known_ones(
    settled: Program, arguments: list[str]
) -> None:
    found = sentence(settled.call(*arguments), 2)
    assert found == "there is no route 'kafak'; the settings have: kafka"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "expected"),
    [
        (["relay", "--drain", "--once"], 2, "give --drain or --once, not both"),
        (["events", "show", "17"], 1, "there is no event '17': give an id or a sequence"),
        (["events", "show", "x; y"], 1, "there is no event 'x; y'"),
        (["events", "list", "--since", "soon"], 2, "'soon' is no time: write 2026-05-01T08:00"),
        (["dead-letters", "show", "17"], 1, "there is no dead letter 17"),
        (["dead-letters", "replay", "17", "18"], 1, "there is no dead letter 17, 18"),
        (["dead-letters", "replay"], 2, "say which dead letters: their ids, or --route NAME"),
        (["dead-letters", "replay", "1", "--all"], 2, "say which dead letters"),
        (["dead-letters", "discard", "1"], 2, "missing option '--reason'"),
        (["dead-letters", "list", "--route", "kafka", "--consumer", "b"], 2, "not both"),
        (["replay", "--route", "kafka"], 2, "--since TIME, --after SEQ or --beginning"),
        (["replay", "--route", "kafka", "--beginning"], 1, "route kafka never ran"),
        (["routes", "rewind", "kafka"], 2, "--since TIME, --after SEQ or --beginning"),
        (["routes", "rewind", "kafka", "--beginning"], 1, "route kafka never ran"),
        (["consume", "shop"], 2, "'shop' is no MODULE:CONSUMER"),
        (["consume", "nowhere.shop:billing"], 2, "there is no module 'nowhere'"),
        (["consume", "json:loads"], 2, "'loads' is no consumer; json has no outbox.Consumer"),
        (["demo", "--kafka"], 2, "--kafka needs a PostgreSQL and a Kafka"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_meant_is_told(
    settled: Program, arguments: list[str], exit_code: int, expected: str
) -> None:
    assert expected in sentence(settled.call(*arguments), exit_code)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("import outbox_is_missing_this", "shop needs the module 'outbox_is_missing_this'"),
        ("1 / 0", "shop cannot be imported: ZeroDivisionError: division by zero"),
        ("", "'billing' is not there; shop has no outbox.Consumer"),
        (
            "import outbox\naudit = outbox.Consumer('audit', database='sqlite://')",
            "'billing' is not there; shop has audit",
        ),
        (
            "import outbox\nbilling = outbox.Consumer('billing', database='sqlite://')",
            "consumer 'billing' has no handler",
        ),
    ],
)
def test_a_module_without_a_usable_consumer_is_told(
    settled: Program, content: str, expected: str
) -> None:
    (settled.folder / "shop.py").write_text(content)
    done = settled.run("consume", "shop:billing")
    assert done.returncode in {1, 2}
    assert expected in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///empty.db", "`outbox migrate`"),
        (f"postgresql+psycopg://app:{PASSWORD}@{NOWHERE}/shop", "Connection refused"),
    ],
)
def test_a_consumer_whose_database_cannot_be_used_says_so(
    settled: Program, url: str, expected: str
) -> None:
    (settled.folder / "shop.py").write_text(
        f"import outbox\nbilling = outbox.Consumer('billing', database={url!r})\n"
        "billing.on('shop.order.placed')(lambda event, context: None)"
    )
    assert expected in sentence(settled.run("consume", "shop:billing"), 1)


@pytest.mark.parametrize("arguments", [["relay", "--drain"], ["consume", "shop:billing"]])
def test_a_memory_route_is_refused_where_nobody_could_reach_its_broker(
    program: Program, sqlite_url: str, arguments: list[str]
) -> None:
    (program.folder / "shop.py").write_text(
        "import outbox\nbilling = outbox.Consumer('billing', database='sqlite://')"
    )
    environment = {"OUTBOX_DATABASE_URL": sqlite_url, "OUTBOX_ROUTES__M__TRANSPORT": "memory"}
    found = sentence(program.run(*arguments, **environment), 2)
    assert found.startswith("route 'm' is on the memory transport")
    assert "by `outbox relay --consume" in found


def test_a_broker_that_does_not_answer_is_told_when_the_relay_was_to_finish(
    settled: Program, sqlite_url: str
) -> None:
    insert(sqlite_url)
    done = settled.run("relay", "--drain", "--drain-timeout", "1", "--log-level", "error")
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert "gave up after 1 s without progress: " in told
    assert "broker" in told
    assert "Traceback" not in done.stderr


def test_a_confirmation_that_nobody_can_give_asks_for_yes(
    settled: Program, sqlite_url: str
) -> None:
    set_aside(sqlite_url, Failure(envelope(), "too large"))
    done = settled.call("dead-letters", "discard", "--all", "--reason", "test")
    assert sentence(done, 2) == "nobody is there to confirm it: add --yes"


@pytest.mark.parametrize("more", [(), ("--json",)], ids=["text", "json"])
def test_a_reader_that_has_had_enough_ends_it_in_silence_as_sigpipe_does(
    settled: Program, sqlite_url: str, more: tuple[str, ...]
) -> None:
    insert(sqlite_url, count=3000)
    listing = settled.start("events", "list", "--limit", "3000", *more)
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.readline()
    listing.stdout.close()
    assert listing.wait(30) == 141
    assert listing.stderr.read() == ""
    listing.stderr.close()


def test_ctrl_c_is_how_tail_ends(settled: Program, sqlite_url: str) -> None:
    with settled.start("events", "tail", "--json") as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        # It prints what commits after its start, so commit until it prints.
        while not select.select([tail.stdout], [], [], 0.1)[0]:
            insert(sqlite_url)
        tail.send_signal(signal.SIGINT)
        assert tail.wait(30) == 0
        assert tail.stderr.read() == ""


def test_an_unexpected_error_says_how_to_see_where(settled: Program) -> None:
    (settled.folder / "shop.py").write_text("1 / 0")
    done = settled.run("--debug", "consume", "shop:billing")
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ({"TRANSPORT": "kafak"}, "routes.other.transport: there is no transport 'kafak'; use "),
        ({"BOOTSTRAP_SERVER": NOWHERE}, "routes.other.bootstrap_server: there is no such setting"),
        ({"TOPIC": "{typ}"}, "routes.other.topic: the topic '{typ}' has a place that is none of "),
        ({"CLIENT": '{"acks": "0"}'}, "routes.other.client: acks must be "),
    ],
    ids=str,
)
def test_a_wrong_transport_of_any_route_is_told_before_one_of_them_is_run(
    settled: Program, sqlite_engine: sa.Engine, route: dict[str, str], words: str
) -> None:
    values = {"TRANSPORT": "kafka", "BOOTSTRAP_SERVERS": NOWHERE} | route
    environment = {f"OUTBOX_ROUTES__OTHER__{name}": value for name, value in values.items()}
    for arguments in (["relay"], ["relay", "--drain"], ["relay", "--route", "other"]):
        assert words in sentence(settled.run(*arguments, **environment), 2)
    with sqlite_engine.connect() as connection:
        assert connection.execute(sa.select(outbox_checkpoint)).all() == []


def test_a_wrong_transport_of_a_route_that_is_not_run_does_not_matter(settled: Program) -> None:
    other = {"OUTBOX_ROUTES__OTHER__TRANSPORT": "kafak"}
    # Exactly-once would ask the broker, which is nowhere, how far the route has come.
    plain = {"OUTBOX_ROUTES__KAFKA__DELIVERY": "at-least-once"}
    done = settled.run("relay", "--route", "kafka", "--drain", **other, **plain)
    assert done.returncode == 0, done.stderr
