"""Where a measurement happens: a schema and topics of its own, removed whatever happens.

Nothing else in the database or at the broker is touched: everything made here has the name of the
run, `outbox_bench_` and eight digits nobody else has, and by that name it is removed.
"""

from __future__ import annotations

import logging
import signal
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from outbox import migration
from outbox.errors import ConfigurationError, OutboxError
from outbox.settings import shown
from outbox.transports import transport_of
from outbox.transports.kafka.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from outbox.settings import RouteSettings, Settings

_log = logging.getLogger(__name__)

SECONDS: Final = 10.0
"""How long a server may take to answer."""
LOCKED_SECONDS: Final = 10
"""How long removing the schema waits for whoever still uses it."""
TERMINATE: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = %s AND pid <> pg_backend_pid()"
)
INSUFFICIENT_PRIVILEGE: Final = "42501"


class BenchError(OutboxError):
    """A measurement could not be made."""


class LeftBehindError(BenchError):
    """Something that the measurement made could not be removed."""


def new_name() -> str:
    """Return the name of one run, which everything that it makes begins with."""
    return f"outbox_bench_{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class Database:
    """A database to measure on."""

    url: sa.URL
    """It leads to the run's own schema, with the outbox's tables."""


@dataclass(frozen=True)
class Place(Database):
    """A database and a broker to measure on."""

    broker: Broker


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Make a place to measure without a broker; raises what `open_place` does."""
    with own_schema(settings, new_name()) as url:
        yield Database(url)


@contextmanager
def open_place(settings: Settings, route: str, partitions: int) -> Iterator[Place]:
    """Make a place, and remove it when the block ends, however it ends.

    Raises `BenchError` where rights are missing, `ConfigurationError` where the settings name no
    PostgreSQL or no Kafka, and `LeftBehindError` where something could not be removed.
    """
    name = new_name()
    broker = Broker(settings, route, name, partitions)
    with broker.cleared(), own_schema(settings, name) as url:
        broker.use()
        yield Place(url, broker)


@contextmanager
def own_schema(settings: Settings, name: str) -> Iterator[sa.URL]:
    """Create a schema with the outbox's tables; yield a URL by which they are found, and drop it.

    Raises `BenchError` where the role may create none, or where a connection pooler stands between
    that forgets which schema a connection is for.
    """
    url = _postgres(settings.url)
    admin = sa.create_engine(url, poolclass=sa.NullPool, connect_args=_timeouts(url))
    with _removing(lambda: _drop(admin, name), f"the schema {name} in {shown(url)}"):
        _create(admin, url, name)
        own = within(url, name)
        _check(own, url, name)
        migration.upgrade(own)
        yield own


def within(url: sa.URL, name: str) -> sa.URL:
    """Return the URL of a schema: what has no schema in its name is looked for there alone.

    The server knows its connections by the name of the run.
    """
    return _with(url, f"-csearch_path={name}").update_query_dict({"application_name": name})


def quick(url: sa.URL) -> sa.URL:
    """Return the URL for connections whose commits do not wait for the disk."""
    return _with(url, "-csynchronous_commit=off")


def _with(url: sa.URL, option: str) -> sa.URL:
    given = url.query.get("options", ())
    options = [given] if isinstance(given, str) else [*given]
    return url.update_query_dict({"options": " ".join([*options, option])})


def driver_arguments(url: sa.URL) -> dict[str, Any]:
    """Return what the driver's own `connect` takes for a URL."""
    _, arguments = url.get_dialect()().create_connect_args(url)
    return dict(arguments)


def _postgres(url: sa.URL) -> sa.URL:
    if (url.get_backend_name(), url.get_driver_name()) != ("postgresql", "psycopg"):
        msg = (
            "outbox bench measures on PostgreSQL, in a schema of its own: let database_url start"
            " with postgresql+psycopg://"
        )
        raise ConfigurationError(msg)
    return url


def _timeouts(url: sa.URL) -> dict[str, Any]:
    return {} if "connect_timeout" in url.query else {"connect_timeout": int(SECONDS)}


def _create(admin: sa.Engine, url: sa.URL, name: str) -> None:
    try:
        with admin.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    except ProgrammingError as exc:
        if getattr(exc.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise
        msg = (
            f"the role may not create a schema in {shown(url)}, which outbox bench works in: run"
            f" `GRANT CREATE ON DATABASE {url.database} TO {url.username}`, or measure on another"
            " database"
        )
        raise BenchError(msg) from exc


def _check(own: sa.URL, url: sa.URL, name: str) -> None:
    """Look whether new connections are in the schema; else the user's own tables would be used."""
    advice = (
        "as a connection pooler does: let OUTBOX_DATABASE_URL name the PostgreSQL server itself"
        " for `outbox bench`"
    )
    engine = sa.create_engine(own, poolclass=sa.NullPool, connect_args=_timeouts(url))
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT current_schema()").scalar()
    except OperationalError as exc:
        reason = " ".join(str(exc.orig).split())
        msg = f"{shown(url)} takes no search_path when connecting ({reason}), {advice}"
        raise BenchError(msg) from exc
    if found != name:
        msg = f"{shown(url)} drops the search_path that a connection asks for, {advice}"
        raise BenchError(msg)


def _drop(admin: sa.Engine, name: str) -> None:
    with admin.begin() as connection:
        # Whoever still works in it was started here: a process that is only now being killed.
        connection.exec_driver_sql(TERMINATE, (name,))
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCKED_SECONDS}s'")
        connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {name} CASCADE")


class Broker:
    """A route's Kafka, and the topics that a run makes there."""

    def __init__(self, settings: Settings, route: str, name: str, partitions: int) -> None:
        """Read the route's settings; connects at the first call."""
        self._route = settings.route(route)
        self.partitions = partitions
        self._name = name
        options = _kafka_options(route, self._route)
        self.delivery: str = options.delivery
        """What the route is set to."""
        self.transaction_prefix: str = options.transaction_prefix
        """How every transactional.id begins that a run may use."""
        # Warnings of what a client tries again by itself have no place beside a report.
        self.config: dict[str, Any] = {"log_level": "3", **options.admin_config()}
        """What every client of librdkafka needs to connect."""
        self._servers = options.bootstrap_servers
        self._made_count = 0
        self._client: AdminClient | None = None
        self._is_used = False

    def use(self) -> None:
        """Say that from here on there may be topics to delete."""
        self._is_used = True

    def _admin(self) -> AdminClient:
        """Connect when first asked: what is forked before then has no threads."""
        if self._client is None:
            self._client = AdminClient(self.config, logger=_log)
        return self._client

    def route(self, topic: str, delivery: str) -> dict[str, Any]:
        """Return the route's settings, but for everything into one topic."""
        own = {"topic": topic, "types": ["*"], "start": "beginning", "delivery": delivery}
        made = {**self._route.model_dump(exclude_unset=True), **own}
        _kafka_options(topic, type(self._route).model_validate(made))
        return made

    @contextmanager
    def cleared(self) -> Iterator[None]:
        """Delete all topics of the run when the block ends."""
        with _removing(self._delete_all, f"topics {self._name}… at {self._servers}"):
            yield

    @contextmanager
    def topic(self, what: str) -> Iterator[str]:
        """Create a topic, and delete it when the block ends.

        Raises `BenchError` where the broker does not answer, or lets this client create none.
        """
        topic = self._create(what)
        yield topic
        # After a failure all go at once, when the run ends.
        self._delete({topic})

    def _create(self, what: str) -> str:
        self._made_count += 1
        topic = f"{self._name}-{self._made_count}-{what}"
        wanted = NewTopic(
            topic,
            num_partitions=self.partitions,
            replication_factor=-1,  # as many as the cluster gives a topic of anybody
            # When a record came to the broker is told by the broker's clock.
            config={"message.timestamp.type": "LogAppendTime"},
        )
        try:
            self._admin().create_topics([wanted], request_timeout=SECONDS)[topic].result()
        except KafkaException as exc:
            raise self._refused(exc.args[0]) from exc
        return topic

    def _refused(self, error: KafkaError) -> BenchError:
        if error.code() in {
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.CLUSTER_AUTHORIZATION_FAILED,
            KafkaError.POLICY_VIOLATION,
        }:
            return BenchError(
                f"Kafka at {self._servers} lets this client create no topic ({error.str()}): grant"
                " it Create, Describe, Read, Write and Delete on topics that begin with"
                " outbox_bench_, or measure on another broker"
            )
        return BenchError(f"Kafka at {self._servers} creates no topic: {error.str()}")

    def _delete_all(self) -> None:
        """Delete what has the run's name in its own, whoever created it for this run."""
        if not self._is_used:
            return
        known = self._admin().list_topics(timeout=SECONDS).topics
        self._delete({topic for topic in known if self._name in topic})

    def _delete(self, topics: Collection[str]) -> None:
        if not topics:
            return
        for deleted in self._admin().delete_topics([*topics], request_timeout=SECONDS).values():
            deleted.result()


def _kafka_options(name: str, route: RouteSettings) -> Options:
    if route.transport != "kafka":
        msg = (
            f"outbox bench measures on Kafka; route {name!r} is on {route.transport}: name another"
            " one with --route"
        )
        raise ConfigurationError(msg)
    _, options = transport_of(name, route)
    assert isinstance(options, Options)  # noqa: S101  # what the transport's name stands for
    return options


@contextmanager
def _removing(remove: Callable[[], None], what: str) -> Iterator[None]:
    """Remove something when the block ends, however it ends.

    Raises `LeftBehindError` where that fails, which also tells how the block ended.
    """
    failure: BaseException | None = None
    try:
        yield
    except BaseException as exc:
        failure = exc
        raise
    finally:
        try:
            with _undisturbed():
                remove()
        except (DBAPIError, KafkaException) as exc:
            raise LeftBehindError(_told(what, exc, failure)) from failure or exc


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let nobody who is impatient interrupt the clearing up; each step has a time-out."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _told(what: str, reason: DBAPIError | KafkaException, failure: BaseException | None) -> str:
    first = str(reason.orig if isinstance(reason, DBAPIError) else reason.args[0].str())
    text = f"{what} could not be removed ({first}): remove what is left of that name by hand"
    if failure is None:
        return text
    return f"{text}; the measurement had ended with: {str(failure) or type(failure).__name__}"
