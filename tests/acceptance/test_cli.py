"""The commands on real tables: what they print for people, for pipes and for scripts."""

from __future__ import annotations

import getpass
import json
import os
import select
import signal
import socket
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, TopicPartition

from outbox import dead_letter
from outbox.codec import REPLAY
from outbox.dead_letter import Failure, Filter, Status
from outbox.table import outbox_checkpoint, outbox_event
from tests.acceptance.cli import Program, envelope, insert, set_aside
from tests.waiting import eventually

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from confluent_kafka import Message

    from tests.fix_kafka import TopicFactory

HOSTILE = b'{"note": "\x1b]0;owned\x07[bold]\xc2\x9b31m"}'


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    """A migrated database of either kind."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def program(tmp_path: Path, url: str) -> Program:
    """With that database and a route to nowhere."""
    return at(tmp_path, url)


def at(folder: Path, url: str, **route: str) -> Program:
    options = {"transport": "kafka", "bootstrap_servers": "127.0.0.1:9", **route}
    environment = {f"OUTBOX_ROUTES__KAFKA__{name.upper()}": each for name, each in options.items()}
    return Program(folder, {"OUTBOX_DATABASE_URL": url, **environment})


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_version_and_help_need_no_settings(tmp_path: Path) -> None:
    bare = Program(tmp_path)
    assert printed(bare.run("--version")).startswith("outbox ")
    commands = printed(bare.run("--help"))
    for name in ("demo", "migrate", "relay", "consume", "status", "events", "replay"):
        assert f"\n  {name} " in commands


def test_migrate_makes_the_tables_once(tmp_path: Path) -> None:
    program = at(tmp_path, f"sqlite:///{tmp_path / 'new.db'}")
    assert "is now at revision 0003 (was without tables)" in printed(program.call("migrate"))
    assert "is at revision 0003 already" in printed(program.call("migrate"))
    assert printed(program.call("status")).startswith("route")


def test_migrate_prints_its_sql_without_a_database(tmp_path: Path) -> None:
    program = at(tmp_path, "postgresql+psycopg://nobody@127.0.0.1:9/nothing")
    text = printed(program.run("migrate", "--sql"))
    assert "CREATE TABLE outbox_event" in text


def test_events_are_listed_filtered_and_shown(program: Program, url: str) -> None:
    insert(url, 3, type="shop.order.placed", partition_key="c-1")
    (seq,) = insert(url, type="shop_order", partition_key="c-2")
    assert len(printed(program.call("events", "list")).splitlines()) == 1 + 4
    found = documents(printed(program.call("events", "list", "--type", "shop.*", "--json")))
    assert [event["partitionkey"] for event in found] == ["c-1"] * 3
    assert sorted(found, key=lambda event: int(event["sequence"])) == found
    found = documents(printed(program.call("events", "list", "--key", "c-2", "--json")))
    shown = json.loads(printed(program.call("events", "show", str(seq), "--json")))
    assert found == [shown]
    assert shown["data"] == {"order_id": "o-1"}
    text = printed(program.call("events", "show", shown["id"]))
    assert '"order_id": "o-1"' in text
    assert printed(program.call("events", "list", "--since", "1h", "--limit", "2")).count("\n") == 3
    assert printed(program.call("events", "list", "--since", "2999-01-01", "--json")) == ""


def test_events_are_told_with_text_of_sqlite_that_is_no_utf_8(
    tmp_path: Path, sqlite_url: str
) -> None:
    program = at(tmp_path, sqlite_url)
    insert(sqlite_url, 2)
    with sa.create_engine(sqlite_url, poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql(
            "UPDATE outbox_event SET subject = CAST(x'6bff' AS TEXT), data = CAST(x'ff' AS TEXT)"
            " WHERE seq = 1"
        )
    first, second = documents(printed(program.call("events", "list", "--json")))
    assert (first["subject"], first["data_base64"]) == (r"k\udcff", "/w==")
    assert second["data"] == {"order_id": "o-1"}
    assert json.loads(printed(program.call("events", "show", "1", "--json"))) == first
    assert len(printed(program.call("events", "list")).splitlines()) == 1 + 2


def test_an_event_cannot_act_on_the_terminal(tmp_path: Path, sqlite_url: str) -> None:
    program = at(tmp_path, sqlite_url)
    headers = {"x": "\x1b[31m[red]\x9b"}
    (seq,) = insert(
        sqlite_url, type="t\x1b[2J", partition_key="\x1bc", data=HOSTILE, headers=headers
    )
    failure = Failure(envelope("\x1bc", HOSTILE, x="\x1b[5m"), "\x1b[31mreason[/bold]")
    set_aside(sqlite_url, failure)
    ours = {"\x1b[1m", "\x1b[0m", "\x1b[2m"}
    for arguments in (
        ["events", "list"],
        ["events", "show", str(seq)],
        ["events", "list", "--json"],
        ["dead-letters", "list"],
        ["dead-letters", "show", "1"],
    ):
        code, shown = program.on_terminal(*arguments)
        assert code == 0, shown
        rest = shown
        for sequence in ours:
            rest = rest.replace(sequence, "")
        assert not set("\x1b\x07\x9b") & set(rest), (arguments, rest)
    assert "[bold]" in program.on_terminal("events", "show", str(seq))[1]


def test_tables_fit_a_terminal_of_80_columns(tmp_path: Path, sqlite_url: str) -> None:
    program = at(tmp_path, sqlite_url)
    insert(sqlite_url, data=b'{"note": "%s"}' % (b"x" * 200))
    set_aside(sqlite_url, Failure(envelope("c" * 40), "refused " * 40))
    for arguments in (["events", "list"], ["dead-letters", "list"], ["status"]):
        code, shown = program.on_terminal(*arguments)
        assert code == 0
        assert "\x1b[1m" in shown
        plain = shown.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[2m", "")
        assert max(len(line) for line in plain.splitlines()) <= 80, plain


@pytest.mark.parametrize("kind", ["postgres", "mariadb"])
def test_tail_prints_what_commits_late_as_well(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    program = at(tmp_path, url)
    engine = sa.create_engine(url)
    with engine.connect() as slow, program.start("events", "tail", "--json", "--key", "k") as tail:
        assert tail.stdout is not None
        while not select.select([tail.stdout], [], [], 0.1)[0]:
            insert(url, partition_key="k")
        row = {"type": "late", "partition_key": "k", "data": b"{}"}
        slow.execute(sa.insert(outbox_event), row)
        last = insert(url, partition_key="k", type="first")
        events = (json.loads(line) for line in tail.stdout)
        assert next(event for event in events if event["type"] == "first")["sequence"] == str(
            last[0]
        )
        slow.commit()
        late = next(event for event in events if event["type"] == "late")
        assert int(late["sequence"]) < last[0]
        tail.send_signal(signal.SIGINT)
        assert tail.wait(30) == 0
    engine.dispose()


def test_status_counts_backlog_lag_and_letters(program: Program, url: str) -> None:
    insert(url, 2)
    failures = [Failure(envelope("k"), "too large"), Failure(envelope("k"), "behind", "parked", 0)]
    set_aside(url, *failures)
    set_aside(url, failures[0], consumer="billing")
    found = json.loads(printed(program.call("status", "--json")))
    (route,) = found["routes"]
    assert route["state"] == "stopped"
    assert (route["backlog_count"], route["dead_count"], route["parked_count"]) == (2, 1, 1)
    assert route["lag_seconds"] >= 0
    assert route["oldest_at"].endswith("Z")
    assert found["consumers"] == [{"consumer": "billing", "dead_count": 1, "parked_count": 0}]
    text = printed(program.call("status"))
    assert "oldest unsent event of kafka: " in text


def test_a_route_is_paused_shown_and_resumed(program: Program, url: str) -> None:
    insert(url, 2)
    said = printed(program.call("routes", "pause", "kafka", "--reason", "topics are moved"))
    assert said == "route kafka is paused: `outbox routes resume kafka` lets it go on\n"
    (route,) = json.loads(printed(program.call("status", "--json")))["routes"]
    assert (route["state"], route["is_paused"], route["holder"]) == ("paused", True, None)
    assert (route["backlog_count"], route["error"]) == (2, "topics are moved")
    text = printed(program.call("status"))
    assert "kafka is paused since " in text
    assert ": topics are moved\n" in text
    done = program.call("routes", "pause", "kafka")
    assert (done.returncode, done.stderr) == (1, "error: route kafka is paused already\n")
    done = program.run("relay", "--drain")
    assert (done.returncode, "`outbox routes resume kafka`" in done.stderr) == (1, True)
    said = printed(program.call("routes", "resume", "kafka"))
    assert said == "route kafka goes on as soon as a relay runs\n"
    done = program.call("routes", "resume", "kafka")
    assert (done.returncode, done.stderr) == (1, "error: route kafka is not paused\n")
    (route,) = json.loads(printed(program.call("status", "--json")))["routes"]
    assert (route["state"], route["error"]) == ("stopped", None)
    for verb in ("pause", "resume"):
        done = program.call("routes", verb, "kafak")
        assert (done.returncode, "there is no route 'kafak'" in done.stderr) == (2, True)


def test_who_pauses_a_route_needs_no_name(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    printed(at(tmp_path, sqlite_url).call("routes", "pause", "kafka"))
    with sa.create_engine(sqlite_url, poolclass=sa.NullPool).connect() as connection:
        holder = connection.scalar(sa.select(outbox_checkpoint.c.holder))
    assert holder == f"(paused) user {os.getuid()}@{socket.gethostname()}"


def test_dead_letters_are_listed_shown_replayed_and_discarded(program: Program, url: str) -> None:
    set_aside(url, Failure(envelope("k"), "too large"), Failure(envelope("k"), "p", "parked", 0))
    set_aside(url, Failure(envelope(), "bad", place="t[0]@7"), consumer="billing")
    listed = documents(printed(program.call("dead-letters", "list", "--json")))
    assert [(each["owner"], each["status"]) for each in listed] == [
        ("kafka", "dead"),
        ("kafka", "parked"),
        ("billing", "dead"),
    ]
    dead, parked, other = (str(each["id"]) for each in listed)
    shown = printed(program.call("dead-letters", "show", other))
    assert "t[0]@7" in shown
    assert '"order_id": "o-1"' in shown

    text = printed(program.call("dead-letters", "replay", "--route", "kafka"))
    assert "1 dead letter will be tried again" in text
    assert "1 parked event will follow" in text
    assert statuses(url) == {"requested": 1, "parked": 1, "dead": 1}

    reason = ["--reason", "the order was cancelled"]
    assert "discarded 1 dead letter" in printed(
        program.call("dead-letters", "discard", dead, *reason)
    )
    text = printed(program.call("dead-letters", "discard", "--all", "--yes", *reason))
    assert "discarded 2 dead letters" in text
    assert statuses(url) == {"discarded": 3}
    found = printed(program.call("dead-letters", "show", parked))
    assert "the order was cancelled" in found
    assert printed(program.call("dead-letters", "list", "--json")) == ""
    assert (
        len(documents(printed(program.call("dead-letters", "list", "--status", "all", "--json"))))
        == 3
    )


def test_a_replay_that_is_waited_for_fails_while_nobody_does_it(program: Program, url: str) -> None:
    set_aside(url, Failure(envelope(), "too large"))
    done = program.call("dead-letters", "replay", "--all", "--wait", "0.2")
    assert done.returncode == 1
    assert "not tried within 0.2 s" in done.stderr


def test_a_confirmation_on_a_terminal_is_asked_for(tmp_path: Path, sqlite_url: str) -> None:
    program = at(tmp_path, sqlite_url)
    set_aside(sqlite_url, Failure(envelope(), "too large"))
    discard = ["dead-letters", "discard", "--all", "--reason", "test"]
    code, shown = program.on_terminal(*discard, typed="n\n")
    assert (code, statuses(sqlite_url)) == (1, {"dead": 1}), shown
    assert "Discard 1 dead letter for good? [y/N]" in shown
    code, shown = program.on_terminal(*discard, typed="y\n")
    assert (code, statuses(sqlite_url)) == (0, {"discarded": 1}), shown


def statuses(url: str) -> dict[str, int]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    every: list[Status] = ["dead", "parked", "requested", "replayed", "discarded"]
    found: dict[str, int] = {}
    with engine.connect() as connection:
        for letter in dead_letter.find(connection, Filter(statuses=every), 100):
            found[letter.status] = found.get(letter.status, 0) + 1
    return found


def test_relay_drains_to_kafka_and_is_moved_back(
    tmp_path: Path, url: str, bootstrap_servers: str, new_topic: TopicFactory
) -> None:
    program = at(tmp_path, url, bootstrap_servers=bootstrap_servers, topic=new_topic(1))
    insert(url, 5)
    done = program.run("relay", "--drain", "--log-format", "json")
    assert "route kafka: 5 published\n" in printed(done)
    assert all("event" in json.loads(line) for line in done.stderr.splitlines())
    assert "0 published" in printed(program.run("relay", "--drain"))

    move = ["routes", "rewind", "kafka"]
    dry = printed(program.call(*move, "--beginning", "--dry-run"))
    assert dry == "route kafka: 5 events will be sent again, but for those that it leaves out\n"
    assert "nothing was sent after that" in printed(program.call(*move, "--since", "2999-01-01"))
    assert program.call(*move, "--beginning").returncode == 2  # nobody confirms it
    third = documents(printed(program.call("events", "list", "--json")))[2]["sequence"]
    assert "2 events will be sent again" in printed(program.call(*move, "--after", third, "--yes"))
    assert "2 published" in printed(program.run("relay", "--drain"))
    assert "5 events will be sent again" in printed(program.call(*move, "--since", "1h", "--yes"))
    code, shown = program.on_terminal("relay", "--drain")
    assert code == 0
    assert "route kafka: 5 published" in shown


def test_chosen_events_are_sent_again_with_a_mark(
    tmp_path: Path, url: str, bootstrap_servers: str, new_topic: TopicFactory
) -> None:
    topic = new_topic(1)
    program = at(tmp_path, url, bootstrap_servers=bootstrap_servers, topic=topic)
    again = ["replay", "--route", "kafka"]
    for event_type in ("shop.order.placed", "shop.order.paid"):
        insert(url, 3, type=event_type)
    printed(program.run("relay", "--drain"))
    insert(url, 1, type="shop.order.paid")  # the relay is to send it, not a replay

    choice = [*again, "--beginning", "--type", "*.paid"]
    expected = "route kafka: would send 3 events again, but for those that the route leaves out\n"
    assert printed(program.call(*choice, "--dry-run")) == expected
    assert program.call(*choice).returncode == 2  # nobody confirms it
    assert printed(program.run(*choice, "--yes")) == "route kafka: 3 events sent again\n"
    code, shown = program.on_terminal(*again, "--since", "1h", "--key", "nobody", "--yes")
    assert (code, "would send 0 events" in shown) == (0, True)
    code, shown = program.on_terminal(*again, "--since", "1h", "--yes")
    assert code == 0
    assert "6/6" in shown
    records = read_topic(bootstrap_servers, topic, 6 + 3 + 6)
    marked = [REPLAY in dict(record.headers() or ()) for record in records]
    assert marked == [False] * 6 + [True] * 9
    sources = {dict(record.headers() or ())["ce_source"] for record in records}
    assert len(sources) == 1
    types = [dict(record.headers() or ())["ce_type"] for record in records[6:9]]
    assert types == [b"shop.order.paid"] * 3
    assert "route kafka: 1 published" in printed(program.run("relay", "--drain"))


def test_a_replay_is_interrupted_and_goes_on(
    tmp_path: Path, sqlite_url: str, bootstrap_servers: str, new_topic: TopicFactory
) -> None:
    topic = new_topic(1)
    program = at(tmp_path, sqlite_url, bootstrap_servers=bootstrap_servers, topic=topic)
    insert(sqlite_url, 30)
    printed(program.run("relay", "--drain"))
    again = ["replay", "--route", "kafka", "--yes", "--rate", "4"]
    with program.start(*again, "--beginning") as replaying:
        read_topic(bootstrap_servers, topic, 30 + 2)
        replaying.send_signal(signal.SIGINT)
        stdout, stderr = replaying.communicate(timeout=30)
    assert replaying.returncode == 130, stderr
    sent, rest = stdout.splitlines()
    count = int(sent.removeprefix("route kafka: ").split()[0])
    assert 2 <= count < 30
    behind = rest.removeprefix("stopped: the rest is sent with --after ")
    done = program.run("replay", "--route", "kafka", "--yes", "--after", behind)
    assert printed(done) == f"route kafka: {30 - count} events sent again\n"
    records = read_topic(bootstrap_servers, topic, 60)
    values = [dict(record.headers() or ())["ce_id"] for record in records]
    assert values[30:] == values[:30]


def read_topic(bootstrap_servers: str, topic: str, count: int) -> list[Message]:
    """Read a topic of one partition from its start, until so many records came."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": uuid.uuid4().hex})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[Message] = []

    def are_there() -> bool:
        found.extend(consumer.consume(count - len(found), 0.5))
        return len(found) == count

    try:
        eventually(are_there)
    finally:
        consumer.close()
    return found


def test_a_running_relay_goes_on_from_where_it_was_moved(
    tmp_path: Path, url: str, bootstrap_servers: str, new_topic: TopicFactory
) -> None:
    program = at(tmp_path, url, bootstrap_servers=bootstrap_servers, topic=new_topic(1))
    insert(url, 5)
    with program.start("relay") as relay:
        floor = await_backlog(program, 0)["floor"]
        running = json.loads(printed(program.call("status", "--json")))["routes"][0]
        assert running["state"] == "running"
        assert running["holder"]
        assert "5 events" in printed(
            program.call("routes", "rewind", "kafka", "--beginning", "--yes")
        )
        assert await_backlog(program, 0)["floor"] == floor
        relay.send_signal(signal.SIGTERM)
        stdout, stderr = relay.communicate(timeout=30)
    assert relay.returncode == 0, stderr
    assert "route kafka: 10 published" in stdout


def await_backlog(program: Program, count: int) -> dict[str, Any]:
    def route() -> dict[str, Any]:
        (found,) = json.loads(printed(program.call("status", "--json")))["routes"]
        is_reached = found["backlog_count"] == count and found["floor"] is not None
        return found if is_reached else {}

    return eventually(route, why=lambda: printed(program.call("status")))


def test_python_m_relay_is_the_same(tmp_path: Path, sqlite_url: str) -> None:
    program = at(tmp_path, sqlite_url)
    done = program.run("--drain", "--route", "kafak", module="relay")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no route 'kafak'; the settings have: kafka\n"


CONSUMER = """
import outbox

billing = outbox.Consumer({group!r}, database={url!r})

@billing.on("shop.order.placed")
def issue(data, context):
    if data["order_id"] in {refused!r}:
        raise outbox.PermanentError("no such order")
"""


def test_a_worker_handles_and_sets_aside_and_a_replay_is_waited_for(
    tmp_path: Path, url: str, bootstrap_servers: str, new_topic: TopicFactory
) -> None:
    topic = new_topic(1)
    program = at(tmp_path, url, bootstrap_servers=bootstrap_servers, topic=topic)

    def refuse(*orders: str) -> None:
        content = CONSUMER.format(group=topic, url=url, refused=orders)
        (tmp_path / "shop.py").write_text(content)

    refuse("o-2")
    insert(url, 3)
    insert(url, partition_key="c-2", data=b'{"order_id": "o-2"}')
    printed(program.run("relay", "--drain"))
    consume = ["consume", "shop:billing", "--log-format", "json"]
    done = program.run(*consume, "--until-idle", "6")
    assert f"consumer {topic}: 3 handled, 1 dead" in printed(done)
    (letter,) = documents(printed(program.call("dead-letters", "list", "--json")))
    assert letter["owner"] == topic
    assert "no such order" in letter["reason"]

    replay = ["dead-letters", "replay", str(letter["id"]), "--wait", "60"]
    with program.start(*consume) as worker:
        again = program.call(*replay)
        assert again.returncode == 1
        assert "1 dead letter failed again" in again.stderr
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        worker.communicate()
    refuse()
    with program.start(*consume) as worker:
        assert "replayed 1 dead letter" in printed(program.call(*replay))
        worker.send_signal(signal.SIGINT)
        assert worker.wait(30) == 0
        worker.communicate()


COLLECTING = """\
import gc
import outbox
{own}
billing = outbox.Consumer({group!r}, database={url!r})

@billing.on("shop.order.placed")
def tell(data, context):
    print(gc.get_threshold()[0], gc.get_freeze_count() > 0)
"""


@pytest.mark.parametrize(
    ("own", "expected"), [("", "50000 True"), ("gc.set_threshold(7)", "7 False")]
)
def test_a_worker_lets_the_collector_run_seldom_unless_the_application_has_set_it(
    tmp_path: Path,
    postgres_url: str,
    bootstrap_servers: str,
    new_topic: TopicFactory,
    own: str,
    expected: str,
) -> None:
    topic = new_topic(1)
    program = at(tmp_path, postgres_url, bootstrap_servers=bootstrap_servers, topic=topic)
    (tmp_path / "shop.py").write_text(COLLECTING.format(own=own, group=topic, url=postgres_url))
    insert(postgres_url, 1)
    printed(program.run("relay", "--drain"))
    assert expected in printed(program.run("consume", "shop:billing", "--until-idle", "6"))


def test_a_position_of_another_server_is_refused_and_rebased(
    tmp_path: Path, postgres_url: str, bootstrap_servers: str, new_topic: TopicFactory
) -> None:
    program = at(tmp_path, postgres_url, bootstrap_servers=bootstrap_servers, topic=new_topic(1))
    insert(postgres_url, 3)
    printed(program.run("relay", "--drain"))
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    elsewhere = sa.text(
        "UPDATE outbox_checkpoint SET position = jsonb_set(position, '{server,system}', '\"1\"')"
    )
    with engine.begin() as connection:
        connection.execute(elsewhere)
    insert(postgres_url, 2)

    refused = program.run("relay", "--drain")
    assert refused.returncode == 1
    assert "--rebase" in refused.stderr.splitlines()[-1]
    assert "--rebase" in program.call("routes", "rewind", "kafka", "--beginning").stderr
    (route,) = json.loads(printed(program.call("status", "--json")))["routes"]
    assert (route["state"], route["backlog_count"]) == ("stopped", None)
    assert "--rebase" in route["error"]

    shown = printed(program.run("relay", "--drain", "--rebase")).splitlines()
    assert shown[0].startswith("route kafka is moved here; it sends ")
    assert shown[-1].startswith("route kafka: ")
    (route,) = json.loads(printed(program.call("status", "--json")))["routes"]
    assert (route["backlog_count"], route["error"]) == (0, None)
