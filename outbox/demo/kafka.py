"""The story's world on PostgreSQL and Kafka: real processes, killed with SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from outbox.demo.cluster import Cluster
from outbox.demo.events import OrderPlaced
from outbox.demo.postgres import make_books, own_database
from outbox.demo.world import DemoError, Direct
from outbox.transports import kafka

TILLS: Final = 4
PUBLISH_SECONDS: Final = 5.0
"""How long the shop without an outbox waits for the broker."""
CUT_OFF_SECONDS: Final = 0.3
"""The same in the outage, which is as hopeless after five seconds."""
FINISH_SECONDS: Final = 120.0
STOP_SECONDS: Final = 30.0
NOWHERE: Final = "127.0.0.1:9"
"""An address where nothing listens."""
ROUTE: Final = "OUTBOX_ROUTES__KAFKA__"

NAIVE, OUTBOX = "naive", "outbox"
RELAY, WORKER, NAIVE_WORKER = "relay", "worker", "naive worker"
COMMANDS: Final = {
    RELAY: ["outbox", "relay"],
    WORKER: ["outbox", "consume", "outbox.demo.worker:billing"],
    NAIVE_WORKER: ["outbox.demo.worker"],
}


class KafkaWorld:
    """Relay and workers are processes; the database and the topics are the demo's own."""

    place = "PostgreSQL and Kafka"
    interruption = "relay and workers are dead (kill -9)"

    def __init__(
        self, database_url: str, bootstrap_servers: str, folder: Path, stack: ExitStack
    ) -> None:
        """Make databases and topics, and start what delivers; the stack removes all of it."""
        self._name = f"outbox-demo-{uuid.uuid4().hex[:12]}"
        self._folder = folder
        self._broker = bootstrap_servers
        self._cluster = Cluster(bootstrap_servers)
        self._topics = [f"{self._name}-{kind}" for kind in (NAIVE, OUTBOX)]
        stack.enter_context(self._cluster.topics(self._name, self._topics))
        url = stack.enter_context(own_database(sa.make_url(database_url), self._name))
        self.naive = make_books(url, NAIVE)
        self.outbox = make_books(url, OUTBOX)
        stack.callback(self.naive.close)
        stack.callback(self.outbox.close)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        stack.callback(self._kill)
        self._direct = self._connected(bootstrap_servers)
        stack.callback(self._disconnect)
        self._start()

    def publish(self, event: OrderPlaced) -> None:
        """Publish for the shop without an outbox."""
        self._direct.publish(event)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Cut the way to the broker, for all who publish, until the block ends."""
        self._reconnect(NOWHERE)
        yield
        self._reconnect(self._broker)

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Kill the relay and both workers, and start them when the block ends."""
        self._kill()
        yield
        self._start()

    def repeat(self, count: int) -> int:
        """Append the last messages of both topics again."""
        return min(self._cluster.repeat(topic, count) for topic in self._topics)

    def finish(self) -> None:
        """Let the relay drain, and wait until both groups have acknowledged everything."""
        self._stop(RELAY)
        self._launch(RELAY, self._broker, "--drain")
        if self._processes[RELAY].wait(FINISH_SECONDS) != 0:
            raise DemoError(f"the relay could not drain: {self._last_words(RELAY)}")
        deadline = time.monotonic() + FINISH_SECONDS
        while any(self._cluster.is_behind(topic) for topic in self._topics):
            for name in (WORKER, NAIVE_WORKER):
                if self._processes[name].poll() is not None:
                    raise DemoError(f"the {name} ended: {self._last_words(name)}")
            if time.monotonic() > deadline:
                raise DemoError(f"the workers did not catch up: {self._last_words(WORKER)}")
            time.sleep(0.1)
        # A group can be deleted once its members have left, not while they are missed.
        self._stop(WORKER)
        self._stop(NAIVE_WORKER)

    def _reconnect(self, broker: str) -> None:
        self._disconnect()
        self._direct = self._connected(broker)
        self._stop(RELAY)
        self._launch(RELAY, broker)

    def _disconnect(self) -> None:
        self._direct.close()

    def _connected(self, broker: str) -> Direct:
        options = kafka.Options(
            bootstrap_servers=broker, topic=self._topics[0], delivery="at-least-once"
        )
        seconds = CUT_OFF_SECONDS if broker == NOWHERE else PUBLISH_SECONDS
        return Direct([kafka.publisher(NAIVE, options, seconds) for _ in range(TILLS)])

    def _start(self) -> None:
        for name in COMMANDS:
            self._launch(name, self._broker)

    def _launch(self, name: str, broker: str, *arguments: str) -> None:
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *COMMANDS[name], *arguments],
                cwd=self._folder,
                env=self._environment(name, broker),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _environment(self, name: str, broker: str) -> Mapping[str, str]:
        books, topic = (
            (self.naive, self._topics[0])
            if name == NAIVE_WORKER
            else (self.outbox, self._topics[1])
        )
        inherited = {key: value for key, value in os.environ.items() if "OUTBOX" not in key}
        return inherited | {
            "OUTBOX_DATABASE_URL": books.shop.url.render_as_string(hide_password=False),
            "OUTBOX_SOURCE": "/shop",
            f"{ROUTE}TRANSPORT": "kafka",
            f"{ROUTE}BOOTSTRAP_SERVERS": broker,
            f"{ROUTE}TOPIC": topic,
            f"{ROUTE}LEASE_SECONDS": "3",
            f"{ROUTE}TRANSACTION_PREFIX": f"{self._name}-",
            f"{ROUTE}CONSUMER__SESSION_TIMEOUT_MS": "6000",
            "OUTBOX_DEMO_DATABASE": books.billing.url.render_as_string(hide_password=False),
            "OUTBOX_DEMO_GROUP": topic,
        }

    def _stop(self, name: str) -> None:
        process = self._processes[name]
        process.terminate()
        code = process.wait(STOP_SECONDS)
        # On a busy machine it may not have come as far as to handle the signal.
        if code not in {0, -signal.SIGTERM}:
            raise DemoError(f"the {name} ended with {code}: {self._last_words(name)}")

    def _kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _last_words(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"
