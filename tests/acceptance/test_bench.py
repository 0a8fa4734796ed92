"""`outbox bench` on real servers: it says what it found, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.acceptance.cli import Program, insert, killed
from tools.servers import kafka, pgbouncer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

QUICK = {
    "relay": ["--rows", "900", "--bytes", "200", "--rounds", "1"],
    "late": ["--rows", "900", "--rounds", "1"],
    "latency": ["--per-second", "100", "--seconds", "0.3", "--rounds", "1", "--idle", "0.5"],
}
MORE_QUICK = {
    "emit": ["--events", "1", "--events", "3", "--rounds", "2"],
    "consume": ["--events", "60", "--batch-size", "20", "--rounds", "1"],
}
LONG = {
    "relay": ["--rows", "2000000", "--bytes", "200"],
    "late": ["--rows", "2000000"],
    "latency": ["--seconds", "1", "--rounds", "300"],
    "emit": ["--rounds", "1000000"],
    "consume": ["--events", "20000", "--rounds", "1000"],
}
PREFIX = "outbox_bench_"
LOOK_SECONDS = 0.02


@dataclass
class Ended:
    """A run that is over."""

    code: int
    stdout: str
    stderr: str

    def sentence(self) -> str:
        """Return the one line that a failure printed."""
        assert self.stdout == ""
        assert self.stderr.startswith("error: ")
        assert self.stderr.count("\n") == 1, self.stderr
        return self.stderr.removeprefix("error: ").rstrip()


@dataclass
class Shop:
    """A database and a broker that somebody uses, and the program set to them."""

    program: Program
    url: str
    servers: str
    connection: sa.Connection
    runs: set[str] = field(default_factory=set)
    """The names of the measurements that were seen at work here."""
    before: list[list[tuple[Any, ...]]] = field(init=False)

    def __post_init__(self) -> None:
        """Give the user an outbox that is in use."""
        insert(self.url, 3)
        self.before = self.everything()

    def bench(
        self,
        *arguments: str,
        signal_at: Callable[[], bool] = lambda: False,
        number: signal.Signals = signal.SIGINT,
        environment: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run it to its end, or until a moment at which it is sent a signal."""
        is_sent = False
        with killed(self.program.start("bench", *arguments, **(environment or {}))) as process:
            while process.poll() is None:
                self.runs |= self.schemas()
                if not is_sent and signal_at():
                    process.send_signal(number)
                    is_sent = True
                time.sleep(LOOK_SECONDS)
            stdout, stderr = process.communicate(timeout=60)
        return Ended(process.returncode, stdout, stderr)

    def schemas(self) -> set[str]:
        found = self.ask("SELECT nspname FROM pg_namespace")
        return {name for (name,) in found if name.startswith(PREFIX)}

    def topics(self) -> set[str]:
        """Topics of these measurements: others may use the broker at the same time."""
        admin = AdminClient({"bootstrap.servers": self.servers})
        known = admin.list_topics(timeout=10).topics
        return {topic for topic in known if any(run in topic for run in self.runs)}

    def others(self) -> list[str]:
        """What others last asked this database."""
        found = self.ask(
            "SELECT query FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return [str(query) for (query,) in found]

    def is_at_work(self) -> bool:
        """Whether it writes or reads events by now."""
        asked = [query.lower() for query in self.others()]
        return any(
            table in query and "create" not in query and "alter" not in query
            for query in asked
            for table in ("outbox_event", "bench_order", "bench_invoice")
        )

    def everything(self) -> list[list[tuple[Any, ...]]]:
        """What is in the tables of the user's own outbox."""
        names = ("event", "checkpoint", "inbox", "dead_letter", "incarnation", "alembic_version")
        return [self.ask(f"SELECT * FROM public.outbox_{name}") for name in names]

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.connection.exec_driver_sql(statement)]

    def assert_nothing_is_left(self) -> None:
        """Neither schema, topic nor process; and the user's own outbox is as it was."""
        assert self.runs, "it made no schema: nothing was tested"
        assert self.everything() == self.before
        assert not self.schemas()
        deadline = time.monotonic() + 10
        while self.topics() or self.others():
            assert time.monotonic() < deadline, (self.topics(), self.others())
            time.sleep(0.02)


@pytest.fixture
def shop(tmp_path: Path, postgres_url: str, kafka_server: str) -> Iterator[Shop]:
    environment = {
        "OUTBOX_DATABASE_URL": postgres_url,
        "OUTBOX_ROUTES__KAFKA__TRANSPORT": "kafka",
        "OUTBOX_ROUTES__KAFKA__BOOTSTRAP_SERVERS": kafka_server,
    }
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield Shop(Program(tmp_path, environment), postgres_url, kafka_server, connection)


def reported(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_the_relay_is_measured_beside_the_script_in_the_same_rounds(shop: Shop) -> None:
    wanted = ["--rows", "300", "--rows", "900", "--bytes", "200", "--rounds", "2"]
    report = reported(shop.bench("relay", *wanted, "--note", "on ice", "--json"))
    assert report["bench"] == "relay"
    assert report["note"] == "on ice"
    assert report["machine"]["cores"] >= 1
    assert report["server"]["server_version"]
    assert [series["where"]["rows"] for series in report["series"]] == [300, 900]
    smallest, larger = (series["contenders"] for series in report["series"])
    for name in larger:
        rates = [each[name]["median"]["rows_per_second"] for each in (larger, smallest)]
        of_smallest = larger[name]["of_smallest"]
        assert of_smallest["rows"] == 300
        assert of_smallest["rows_per_second"] == pytest.approx(rates[0] / rates[1])
    for series in report["series"]:
        by_hand, relay = series["contenders"]
        assert by_hand == "by hand"
        rates = [
            (each[by_hand]["rows_per_second"], each[relay]["rows_per_second"])
            for each in series["rounds"]
        ]
        assert len(rates) == 2
        ratio = series["contenders"][relay]["ratio"]["rows_per_second"][by_hand]
        assert ratio == pytest.approx(sum(mine / theirs for theirs, mine in rates) / 2)
        assert 20 << 20 < series["contenders"][relay]["median"]["peak_bytes"] < 1 << 30
    shop.assert_nothing_is_left()


def test_a_late_transaction_is_measured_beside_the_same_rows_that_were_in_time(shop: Shop) -> None:
    (series,) = reported(shop.bench("late", *QUICK["late"], "--json"))["series"]
    assert series["where"]["rows"] == 900
    by_hand, in_time, late = series["contenders"]
    assert (by_hand, late) == ("by hand", f"{in_time}, late")
    figures = series["contenders"][late]
    assert figures["ratio"]["rows_per_second"].keys() == {by_hand, in_time}
    assert 20 << 20 < figures["median"]["peak_bytes"] < 1 << 30
    shop.assert_nothing_is_left()


def test_latencies_are_of_every_event_and_idling_is_watched(shop: Shop) -> None:
    report = reported(shop.bench("latency", *QUICK["latency"], "--json"))
    latency, idle = report["series"]
    direct, by_hand, relay = latency["contenders"]
    assert (direct, by_hand) == ("direct produce", "by hand, exactly-once")
    assert relay == "relay, exactly-once"
    for name, figures in latency["contenders"].items():
        median = figures["median"]
        assert median["count"] == 30, name
        assert 0 < median["p50_ms"] <= median["p99_ms"] <= median["max_ms"]
        assert figures["percentiles"][-1] == {"percent": 100, "ms": median["max_ms"]}
    assert by_hand in latency["contenders"][relay]["above"]["p50_ms"]
    above = latency["contenders"][relay]["above"]["p50_ms"][direct]
    p50 = [latency["contenders"][name]["median"]["p50_ms"] for name in (relay, direct)]
    assert above == pytest.approx(p50[0] - p50[1])
    assert 0 < idle["contenders"][relay]["median"]["statements_per_second"] < 1000
    assert idle["contenders"][relay]["median"]["cpu_percent"] >= 0
    shop.assert_nothing_is_left()


def test_emit_is_measured_without_a_broker(shop: Shop) -> None:
    nowhere = {"OUTBOX_ROUTES__KAFKA__TRANSPORT": "memory"}
    ended = shop.bench("emit", *MORE_QUICK["emit"], "--json", environment=nowhere)
    one, three, hooks = reported(ended)["series"]
    for series, count in ((one, 1), (three, 3)):
        assert series["where"]["events"] == count
        assert list(series["contenders"]) == ["order alone", "by hand", "emit"]
        assert len(series["rounds"]) == 2
        assert series["contenders"]["emit"]["ratio"]["transaction_us"]["by hand"] > 0
    assert len(hooks["rounds"]) == 2
    assert "without hooks" in hooks["contenders"]["with hooks"]["above"]["transaction_us"]
    shop.assert_nothing_is_left()


def test_consume_is_measured_from_memory_and_from_kafka(shop: Shop) -> None:
    report = reported(shop.bench("consume", *MORE_QUICK["consume"], "--json"))
    assert [series["where"]["from"] for series in report["series"]] == ["memory", "Kafka"]
    for series in report["series"]:
        worker = series["contenders"]["worker"]
        assert worker["median"]["messages_per_second"] > 0
        assert worker["ratio"]["messages_per_second"]["by hand"] > 0
    shop.assert_nothing_is_left()


def test_a_table_tells_people_the_same_and_where_it_was(shop: Shop) -> None:
    ended = shop.bench("relay", *QUICK["relay"], "--held-open")
    assert ended.code == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].split("  ")[-1] == "peak MiB"
    beginnings = (
        "by hand  ",
        "relay, exactly-once  ",
        "relay, exactly-once, a transaction held open",
    )
    for line, beginning in zip(lines[1:4], beginnings, strict=True):
        assert line.startswith(beginning)
    assert "PostgreSQL" in lines[-1]
    shop.assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", LONG)
def test_nothing_is_left_by_one_that_was_interrupted_at_work(
    shop: Shop, command: str, number: signal.Signals
) -> None:
    ended = shop.bench(command, *LONG[command], signal_at=shop.is_at_work, number=number)
    assert (ended.code, ended.stdout, ended.stderr) == (130, "", "")
    shop.assert_nothing_is_left()


def test_nothing_is_left_by_one_that_was_interrupted_as_it_began(shop: Shop) -> None:
    ended = shop.bench("relay", *LONG["relay"], signal_at=lambda: bool(shop.schemas()))
    assert (ended.code, ended.stdout) == (130, "")
    # SQLAlchemy tells by itself where the signal came while it closed a connection.
    assert not ended.stderr or ended.stderr.startswith("Exception closing connection")
    shop.assert_nothing_is_left()


def test_a_second_signal_does_not_disturb_the_clearing_up(shop: Shop) -> None:
    with killed(shop.program.start("bench", "latency", *LONG["latency"])) as process:
        while not shop.is_at_work():
            shop.runs |= shop.schemas()
        while shop.schemas():
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 130
    shop.assert_nothing_is_left()


@pytest.mark.parametrize("command", QUICK)
def test_nothing_is_left_by_one_that_failed(shop: Shop, command: str) -> None:
    ended = shop.bench(
        command,
        *QUICK[command],
        "--json",
        environment={"OUTBOX_ROUTES__KAFKA__PRODUCER__NO_SUCH_PROPERTY": "1"},
    )
    assert ended.code == 1
    assert "no.such.property" in ended.sentence()
    shop.assert_nothing_is_left()


def test_a_role_that_may_create_no_schema_is_told_which_right_it_lacks(
    shop: Shop, postgres_url: str
) -> None:
    role = f"outbox_test_{uuid.uuid4().hex[:8]}"
    url = sa.make_url(postgres_url)
    shop.connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
    try:
        limited = url.set(username=role).render_as_string(hide_password=False)
        ended = shop.bench("relay", environment={"OUTBOX_DATABASE_URL": limited})
    finally:
        shop.connection.exec_driver_sql(f"DROP ROLE {role}")
    assert ended.code == 1
    assert f"`GRANT CREATE ON DATABASE {url.database} TO {role}`" in ended.sentence()
    assert not shop.runs


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "takes no search_path when connecting"),
        ({"ignore_startup_parameters": "options"}, "drops the search_path"),
    ],
    ids=["refuses", "ignores"],
)
def test_behind_a_pooler_it_does_not_work_on_the_users_tables(
    shop: Shop, postgres_server: sa.URL, settings: dict[str, str], expected: str
) -> None:
    host, port = postgres_server.host or "127.0.0.1", postgres_server.port or 5432
    user = postgres_server.username or "postgres"
    with pgbouncer(host, port, user=user, settings=settings) as pooler:
        ended = shop.bench("relay", environment={"OUTBOX_DATABASE_URL": pooler.through(shop.url)})
    assert ended.code == 1
    assert expected in ended.sentence()
    assert "let OUTBOX_DATABASE_URL name the PostgreSQL server itself" in ended.stderr
    assert pooler.password not in ended.stderr
    assert not shop.schemas()
    assert shop.everything() == shop.before


def test_a_client_that_may_create_no_topic_is_told_which_right_it_lacks(shop: Shop) -> None:
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with kafka(properties=properties) as strict:
        forbid_new_topics(strict.bootstrap_servers)
        shop.servers = strict.bootstrap_servers
        ended = shop.bench(
            "latency",
            environment={"OUTBOX_ROUTES__KAFKA__BOOTSTRAP_SERVERS": strict.bootstrap_servers},
        )
        assert ended.code == 1
        assert "grant it Create, Describe, Read, Write and Delete" in ended.sentence()
        shop.assert_nothing_is_left()


def forbid_new_topics(servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    everything, none = AclPermissionType.ALLOW, AclPermissionType.DENY
    for kind, name, pattern in (
        (ResourceType.BROKER, "kafka-cluster", ResourcePatternType.LITERAL),
        (ResourceType.TOPIC, PREFIX, ResourcePatternType.PREFIXED),
    ):
        for operation, allowed in ((AclOperation.ALL, everything), (AclOperation.CREATE, none)):
            binding = AclBinding(kind, name, pattern, "User:*", "*", operation, allowed)
            admin.create_acls([binding])[binding].result()


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "expected"),
    [
        (["relay"], {"OUTBOX_DATABASE_URL": "sqlite:///here.db"}, 2, "measures on PostgreSQL"),
        (["relay"], {"OUTBOX_ROUTES__KAFKA__TRANSPORT": "memory"}, 2, "is on memory: name another"),
        (["latency", "--route", "kafak"], {}, 2, "there is no route 'kafak'"),
        (["relay", "--delivery", "at-most-once"], {}, 2, "--delivery at-most-once is not known"),
        (["relay", "--rows", "0"], {}, 2, "'--rows'"),
        (["relay", "--rows", "many"], {}, 2, "'--rows'"),
        (["latency", "--seconds", "0"], {}, 2, "'--seconds'"),
        (["relai"], {}, 2, "no such command 'relai'"),
        (
            ["latency"],
            {"OUTBOX_ROUTES__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9"},
            1,
            "Kafka at 127.0.0.1:9",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_measured_is_told_in_one_sentence(
    shop: Shop, arguments: list[str], environment: dict[str, str], code: int, expected: str
) -> None:
    ended = shop.bench(*arguments, environment=environment)
    assert expected in ended.sentence()
    assert ended.code == code
    assert not shop.schemas()
