"""The main job in memory, by settings alone: one process is relay, broker and worker, and killed.

Nothing is left of a broker in memory that could be counted afterwards: effects are all there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.acceptance.main_job import Load, Together, compare, effects, expect_once, run, show

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa

SETTINGS = """
source = "/counting"

[routes.local]
transport = "memory"
lease_seconds = 3
page_size = 500

[consumers.counting]
batch_size = 200
"""


@pytest.mark.timeout(600)
def test_each_committed_event_has_one_effect_in_order(
    postgres_engine: sa.Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load = Load(3_000, relay_kills=2, worker_kills=2)
    run(Together(load, postgres_engine, tmp_path, SETTINGS))
    done = compare(postgres_engine, effects(postgres_engine))
    show(capsys, effects=done)
    expect_once(done, at_least=load.event_count)
