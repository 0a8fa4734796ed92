"""Real servers for tests and demos, on loopback, gone when the program ends.

    with postgres() as server:
        engine = create_engine(server.url())

    with kafka(properties={"auto.create.topics.enable": "false"}) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers})

    with s3() as server:
        client = boto3.client("s3", endpoint_url=server.endpoint_url, …)

    with postgres() as server, pgbouncer("127.0.0.1", server.port) as pooler:
        ...

A server keeps its data and its port over `stop()` or `kill()` and the next `start()`. From a shell,
`python -m tools.servers --postgres --kafka -- COMMAND` runs a command with both at hand.
"""

from __future__ import annotations

from tools.servers.activemq import ActiveMqServer, activemq
from tools.servers.kafka import KafkaServer, kafka
from tools.servers.mariadb import MariaDbServer, mariadb
from tools.servers.pgbouncer import PgBouncerServer, pgbouncer
from tools.servers.postgres import PostgresServer, postgres
from tools.servers.process import ServerAbsentError, ServerError
from tools.servers.registry import RegistryServer, registry
from tools.servers.s3 import S3Server, s3

__all__ = [
    "ActiveMqServer",
    "KafkaServer",
    "MariaDbServer",
    "PgBouncerServer",
    "PostgresServer",
    "RegistryServer",
    "S3Server",
    "ServerAbsentError",
    "ServerError",
    "activemq",
    "kafka",
    "mariadb",
    "pgbouncer",
    "postgres",
    "registry",
    "s3",
]
