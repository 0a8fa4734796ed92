"""A database, a broker, and one route between them that delivers exactly once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)

from outbox import dead_letter
from outbox.dead_letter import Filter
from outbox.settings import Settings
from outbox.table import outbox_checkpoint, outbox_event
from relay.daemon import Relay, Until
from tests.arriving import read_all

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUTE = "kafka"
LIFE_SECONDS: Final = 60.0
EMIT_SECONDS: Final = 0.2
EVERY_STATUS: frozenset[dead_letter.Status] = dead_letter.UNRESOLVED | {"replayed", "discarded"}


@dataclass
class World:
    """A database, a broker, a topic with one partition, and what was emitted."""

    engine: sa.Engine
    bootstrap_servers: str
    topic: str = field(default_factory=lambda: f"once-{uuid.uuid4().hex[:12]}")
    emitted: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    program = "tests.killed_relay"

    def create(self, **config: str) -> None:
        settings = {name.replace("_", "."): value for name, value in config.items()}
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        admin.create_topics([NewTopic(self.topic, 1, config=settings)])[self.topic].result()

    def settings(self, **route: Any) -> Settings:
        options = self.route()
        url = self.engine.url.render_as_string(hide_password=False)
        return Settings(database_url=url, source="/test", routes={ROUTE: options | route})

    def route(self) -> dict[str, Any]:
        """Return the route's own settings."""
        return {
            "transport": "kafka",
            "bootstrap_servers": self.bootstrap_servers,
            "topic": self.topic,
            "lease_seconds": 3,
        }

    def relay(self, **route: Any) -> Relay:
        return Relay(self.settings(**route), engine=self.engine)

    def drain(self, **route: Any) -> None:
        summary = self.relay(**route).run(until=Until.DRAINED)
        assert summary.routes[ROUTE].error is None

    def limit(self, max_bytes: int) -> None:
        """Change what the topic takes."""
        name, kind = "max.message.bytes", ConfigResource.Type.TOPIC
        entry = ConfigEntry(name, str(max_bytes), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(kind, self.topic, incremental_configs=[entry])
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        admin.incremental_alter_configs([resource])[resource].result()

    def emit(self, *keys: str | None, data: bytes = b"{}") -> None:
        """Emit events in one transaction."""
        rows = [{"type": "shop.order.placed", "partition_key": key, "data": data} for key in keys]
        statement = sa.insert(outbox_event).returning(
            outbox_event.c.id, sort_by_parameter_order=True
        )
        with self.engine.begin() as connection:
            for key, id_ in zip(keys, connection.scalars(statement, rows), strict=True):
                self.emitted[key or ""].append(str(id_))

    def arrived(self) -> dict[str, list[str]]:
        """Ids that a consumer of committed records reads, by key, in order, each as often."""
        return read_all(self.bootstrap_servers, self.topic)

    def expect_each_once(self) -> None:
        assert self.arrived() == self.emitted

    def row(self) -> sa.Row[Any]:
        with self.engine.connect() as connection:
            return connection.execute(sa.select(outbox_checkpoint)).one()

    def change(self, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.update(outbox_checkpoint).values(**values))

    def letters(self) -> list[tuple[str, str | None]]:
        """Status and key of each dead letter, in order."""
        with self.engine.connect() as connection:
            found = dead_letter.find(connection, Filter(statuses=EVERY_STATUS), 1_000)
        return [(letter.status, letter.partition_key) for letter in found]

    def run_and_die(
        self, step: str, count: int = 1, meanwhile: Sequence[str] = (), **route: Any
    ) -> None:
        """Run a relay in a process of its own until it kills itself at a step.

        Events of the keys `meanwhile` are emitted again and again, so that there is always another
        transaction.
        """
        settings = self.settings(**route)
        routes = json.dumps({ROUTE: settings.routes[ROUTE].model_dump()})
        url = settings.database_url.get_secret_value()
        relay = subprocess.Popen(
            [sys.executable, "-m", self.program, url, routes, step, str(count)],
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + LIFE_SECONDS
        error = b""
        try:
            while relay.returncode is None and time.monotonic() < deadline:
                try:
                    _, error = relay.communicate(timeout=EMIT_SECONDS)
                except subprocess.TimeoutExpired:
                    if meanwhile:
                        self.emit(*meanwhile)
        finally:
            relay.kill()
        assert relay.returncode == -signal.SIGKILL, error.decode()
