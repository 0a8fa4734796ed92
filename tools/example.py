"""Runs examples/shop on the servers of the tests, in a database, topics and a bucket of its own.

python -m tools.servers --postgres --kafka --activemq --s3 -- python -m tools.example [ORDERS]
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from confluent_kafka.admin import AdminClient, NewTopic

from tools.buckets import options_of, plain_client

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Make what an operator makes, then run the example; return its exit code."""
    with prepared(os.environ) as environment:
        run = [sys.executable, str(ROOT / "examples" / "shop" / "run.py"), *sys.argv[1:]]
        return subprocess.run(run, env=environment, check=False).returncode


@contextmanager
def prepared(given: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Make a database, a topic and a bucket, and yield an environment that names all servers.

    When the block ends they are removed.
    """
    name = f"shop{uuid.uuid4().hex[:12]}"
    s3 = given["OUTBOX_TEST_S3"]
    kafka = given["OUTBOX_TEST_KAFKA"]
    routes = {
        "KAFKA": {"bootstrap_servers": kafka, "topic": name},
        "ACTIVEMQ": {"brokers": given["OUTBOX_TEST_ACTIVEMQ"], "topic": name},
        "S3": options_of(s3, name),
    }
    with (
        _database(given["OUTBOX_TEST_POSTGRES"], name) as url,
        _topic(kafka, name),
        _bucket(s3, name),
    ):
        yield {
            **given,
            "OUTBOX_DATABASE_URL": url,
            **{
                f"OUTBOX_ROUTES__{route}__{option.upper()}": value
                for route, options in routes.items()
                for option, value in options.items()
            },
        }


@contextmanager
def _database(server: str, name: str) -> Iterator[str]:
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        try:
            yield sa.make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def _topic(servers: str, name: str) -> Iterator[None]:
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(name, 3)])[name].result()
    try:
        yield
    finally:
        admin.delete_topics([name])[name].result()


@contextmanager
def _bucket(url: str, name: str) -> Iterator[None]:
    client = plain_client(url)
    client.create_bucket(Bucket=name)
    try:
        yield
    finally:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=name, Key=item["Key"])
        client.delete_bucket(Bucket=name)


if __name__ == "__main__":
    sys.exit(main())
