"""From an outbox to effects over S3 by settings alone: one worker of two is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

import outbox
from outbox.settings import Settings
from relay.daemon import Relay
from relay.route import Until
from tests.integration import consuming_s3
from tests.integration.consuming import Base, Counted, effects
from tests.waiting import eventually

if TYPE_CHECKING:
    import sqlalchemy as sa

    from tests.fix_s3 import Bucket

COUNT = 300
KEY_COUNT = 12


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_killed_worker_changes_no_effect(
    request: pytest.FixtureRequest, database: str, bucket: Bucket
) -> None:
    engine: sa.Engine = request.getfixturevalue(f"{database}_engine")
    Base.metadata.create_all(engine)
    url = engine.url.render_as_string(hide_password=False)
    route = {
        "transport": "s3",
        "format": "jsonl",
        "compression": "gzip",
        "member_seconds": 2,
        "partitions": 8,
        **bucket.options,
    }
    settings: dict[str, Any] = {
        "database_url": url,
        "source": "/tests",
        "routes": {"archive": route},
        "consumers": {consuming_s3.NAME: {"batch_size": 20}},
    }
    command = [sys.executable, "-m", consuming_s3.__name__, url, json.dumps(settings)]
    with ExitStack() as stack:
        victim, survivor = (stack.enter_context(subprocess.Popen(command)) for _ in range(2))
        stack.callback(survivor.kill)
        stack.callback(victim.kill)
        for first in range(0, COUNT, 50):
            with engine.begin() as connection:
                for n in range(first, first + 50):
                    outbox.emit(connection, Counted(key=f"k{n % KEY_COUNT}", n=n))
            summary = Relay(Settings.model_validate(settings)).run(until=Until.DRAINED)
            assert summary.routes["archive"].error is None
            if first == 100:
                eventually(lambda: len(effects(engine)) >= 50)
                victim.kill()
        eventually(lambda: len(effects(engine)) >= COUNT, why=lambda: len(effects(engine)))
        survivor.send_signal(signal.SIGTERM)
        assert survivor.wait(30) == 0
    done = effects(engine)
    assert len(done) == COUNT
    for key in {key for key, _ in done}:
        assert [n for k, n in done if k == key] == [
            n for n in range(COUNT) if f"k{n % KEY_COUNT}" == key
        ]
