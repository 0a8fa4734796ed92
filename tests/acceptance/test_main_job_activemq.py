"""The whole path over ActiveMQ, by settings alone, with everything killed while it works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outbox.transports import activemq
from tests.acceptance import counting
from tests.acceptance.test_main_job import TOPIC, Load, count, show, work

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
lease_seconds = {lease_seconds}
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
    load = Load(4_000, 2, 2, 20, 3, 300)
    settings = SETTINGS.format(address=own_activemq.address, lease_seconds=load.lease_seconds)
    work(load, postgres_engine, own_activemq, tmp_path, settings)
    counts = count(postgres_engine, list(queue_content(own_activemq)))
    show(counts, capsys)
    assert counts.committed >= 4_000
    assert counts.effects == counts.committed
    assert (counts.lost, counts.doubled, counts.phantom) == (0, 0, 0)
    assert (counts.reordered_effects, counts.reordered_records) == (0, 0)
    # At least once: what was in flight when the relay was killed is there twice.
    assert counts.records - counts.record_duplicates == counts.committed


def queue_content(server: ActiveMqServer) -> Iterator[tuple[int, int]]:
    """Receive what was kept for a group that had no worker."""
    options = activemq.Options(brokers=server.address, groups=["audit"])
    subscriber = activemq.subscriber("mq", options, "audit", [TOPIC])
    while deliveries := subscriber.receive(500, 2.0):
        for delivery in deliveries:
            event = counting.CounterRaised.model_validate_json(delivery.message.data)
            yield event.counter_id, event.value
        subscriber.ack(deliveries)
    subscriber.close()
