"""The main job over ActiveMQ, by settings alone, with everything killed while it works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outbox.transports import activemq
from tests.acceptance.main_job import (
    TOPIC,
    Apart,
    Load,
    Raised,
    compare,
    effects,
    expect_once,
    raised,
    run,
    show,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import sqlalchemy as sa

    from tools.servers import ActiveMqServer

SETTINGS = """
source = "/counting"

[routes.mq]
transport = "activemq"
brokers = "{address}"
groups = ["counting", "audit"]
heart_beat_seconds = 1
lease_seconds = 3
page_size = 500

[consumers.counting]
batch_size = 200
"""


@pytest.mark.timeout(600)
def test_each_committed_event_has_one_effect_in_order(
    postgres_engine: sa.Engine,
    own_activemq: ActiveMqServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load = Load(4_000, relay_kills=2, worker_kills=2)
    settings = SETTINGS.format(address=own_activemq.address)
    run(Apart(load, postgres_engine, tmp_path, settings, own_activemq))
    done = compare(postgres_engine, effects(postgres_engine))
    records = compare(postgres_engine, list(queue_content(own_activemq)))
    show(capsys, effects=done, records=records)
    expect_once(done, at_least=load.event_count)
    # At least once: what was in flight when the relay was killed is there twice.
    assert (records.lost, records.phantom, records.reordered) == (0, 0, 0)


def queue_content(server: ActiveMqServer) -> Iterator[Raised]:
    """Receive what was kept for a group that had no worker."""
    options = activemq.Options(brokers=server.address, groups=["audit"])
    subscriber = activemq.subscriber("mq", options, "audit", [TOPIC])
    while deliveries := subscriber.receive(500, 2.0):
        for delivery in deliveries:
            yield raised(delivery.message.data)
        subscriber.ack(deliveries)
    subscriber.close()
