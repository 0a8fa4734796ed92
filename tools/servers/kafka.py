"""A Kafka broker of one's own: one KRaft node, from the jars of Maven Central."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tools.servers.maven import Jars, find_java
from tools.servers.process import LOOPBACK, Server, ServerError, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

JARS = Jars("kafka")
"""43 MB."""
_CLUSTER_ID = "b3V0Ym94LXRlc3RzLWthZg"
_JVM = (
    *("-Xms1G", "-Xmx1G", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    "-XX:InitiatingHeapOccupancyPercent=35",
)
"""As Kafka's own start scripts have it: half of that heap is full each second."""
_QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"


class KafkaServer(Server):
    """A broker in the plain protocol; its own controller.

    `listeners` are further ports, by names of one's own, with the protocol of each; `users` log in
    there by SCRAM-SHA-512, with these passwords.
    """

    name = "the Kafka broker"
    start_seconds = 90

    def __init__(
        self,
        folder: Path,
        *,
        properties: Mapping[str, str],
        listeners: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self._java = [find_java(), *_JVM, _QUIET, "-cp", f"{JARS.find()}/*"]
        self._settings = folder / "server.properties"
        self._ports = {name: free_port() for name in listeners or {}}
        lines = {**_properties(self.port, free_port(), folder), **properties}
        for name, protocol in (listeners or {}).items():
            lines["listeners"] += f",{name}://{LOOPBACK}:{self._ports[name]}"
            lines["listener.security.protocol.map"] += f",{name}:{protocol}"
        self._settings.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        self._format(users or {})

    @property
    def bootstrap_servers(self) -> str:
        return self.address

    def listener(self, name: str) -> str:
        """Return where one of the further listeners is."""
        return f"{LOOPBACK}:{self._ports[name]}"

    def _command(self) -> Sequence[str | Path]:
        return [*self._java, "kafka.Kafka", self._settings]

    def _is_ready(self) -> bool:
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        try:
            return bool(admin.list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def _format(self, users: Mapping[str, str]) -> None:
        tool = ["kafka.tools.StorageTool", "format", "--cluster-id", _CLUSTER_ID]
        for name, password in users.items():
            tool += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
        done = subprocess.run(
            [*self._java, *tool, "--config", self._settings],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise ServerError(f"Kafka's storage could not be formatted:\n{done.stderr}")


def _properties(port: int, controller_port: int, folder: Path) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "num.partitions": "3",
        "auto.create.topics.enable": "true",
        "group.initial.rebalance.delay.ms": "0",
        # After a kill the controller refuses the same broker until its old session has run out.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
    }


@contextmanager
def kafka(
    *,
    properties: Mapping[str, str] | None = None,
    listeners: Mapping[str, str] | None = None,
    users: Mapping[str, str] | None = None,
) -> Iterator[KafkaServer]:
    """Run a new, empty broker in a temporary folder until the block ends.

    `properties` are added to the broker's own, or replace them; for `listeners` and `users` see
    `KafkaServer`. Raises `ServerAbsentError` where Java or the jars are missing, and `ServerError`
    if the broker does not start.
    """
    with tempfile.TemporaryDirectory(prefix="outbox-kafka-", ignore_cleanup_errors=True) as path:
        server = KafkaServer(
            Path(path), properties=properties or {}, listeners=listeners, users=users
        )
        try:
            server.start()
            yield server
        finally:
            server.stop()
