"""The example of examples/shop on real servers: four destinations, on each one effect."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tools.example import ROOT, prepared

if TYPE_CHECKING:
    from collections.abc import Mapping

ORDERS = 40
PLACES = {
    "Kafka": "shop_invoice",
    "ActiveMQ": "shop_parcel",
    "S3": "shop_sale",
    "memory": "shop_note",
}
EMITTED = """
SELECT partition_key, convert_from(data, 'UTF8')::json ->> 'order_id' FROM outbox_event ORDER BY seq
"""


def test_each_destination_has_each_order_once_and_in_order(
    postgres_server: sa.URL, kafka_server: str, activemq_server: str, s3_server: str
) -> None:
    servers = {
        "OUTBOX_TEST_POSTGRES": postgres_server.render_as_string(hide_password=False),
        "OUTBOX_TEST_KAFKA": kafka_server,
        "OUTBOX_TEST_ACTIVEMQ": activemq_server,
        "OUTBOX_TEST_S3": s3_server,
    }
    own = {name: value for name, value in os.environ.items() if "OUTBOX" not in name}
    with prepared(own | servers) as environment:
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / "shop" / "run.py", str(ORDERS)],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, done.stderr
        told = [line.split() for line in done.stdout.splitlines() if line.endswith(" orders")]
        assert told == [[place, str(ORDERS), "of", str(ORDERS), "orders"] for place in PLACES]
        engine = sa.create_engine(environment["OUTBOX_DATABASE_URL"], poolclass=sa.NullPool)
        with engine.connect() as connection:
            emitted = by_customer(connection, EMITTED)
            assert sum(map(len, emitted.values())) == ORDERS
            for place, table in PLACES.items():
                query = f"SELECT customer, order_id FROM {table} ORDER BY number"
                assert by_customer(connection, query) == emitted, place


def by_customer(connection: sa.Connection, query: str) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for customer, order_id in connection.exec_driver_sql(query):
        found[customer].append(order_id)
    return found
