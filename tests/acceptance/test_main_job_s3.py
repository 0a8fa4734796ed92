"""The main job over S3, by settings alone, with everything killed while it works."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.main_job import (
    Apart,
    Load,
    compare,
    effects,
    expect_once,
    raised,
    run,
    show,
)
from tests.fix_s3 import new_bucket
from tests.s3_log import in_log

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa

    from tools.servers import S3Server

SETTINGS = """
source = "/counting"

[routes.archive]
transport = "s3"
concurrency = 8
member_seconds = 6
poll_seconds = 0.2
lease_seconds = 6
page_size = 100
{bucket}

[consumers.counting]
batch_size = 200
"""


@pytest.mark.timeout(600)
def test_each_committed_event_has_one_effect_in_order(
    postgres_engine: sa.Engine,
    own_s3: S3Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load = Load(500, relay_kills=2, worker_kills=2, writer_rate=1)
    bucket = new_bucket(own_s3.url())
    place = "\n".join(f"{name} = {json.dumps(value)}" for name, value in bucket.options.items())
    run(Apart(load, postgres_engine, tmp_path, SETTINGS.format(bucket=place), own_s3))
    done = compare(postgres_engine, effects(postgres_engine))
    events = [raised(json.dumps(event["data"]).encode()) for event in in_log(bucket)]
    listed = compare(postgres_engine, events)
    show(capsys, effects=done, listed=listed)
    expect_once(done, at_least=load.event_count)
    expect_once(listed, at_least=load.event_count)
    # An object an event, whether it is listed or not. A server of this kind that is killed leaves
    # what it was just storing under another name, which goes on behind the key.
    assert len([key for key in bucket.data_keys() if key.endswith(".json")]) == listed.committed
