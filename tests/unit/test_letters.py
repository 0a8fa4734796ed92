from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import sqlalchemy as sa

from relay import letters
from relay.letters import Letters

if TYPE_CHECKING:
    import pytest


def test_a_database_that_is_away_is_not_told_at_every_look(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(letters, "LOOK_SECONDS", 0.0)
    nobody = sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    looked = Letters(
        nobody, "kafka", lambda: 10, lambda _events, _ids: [], lambda: nullcontext(nobody.connect())
    )
    for _ in range(3):
        looked.look_if_due()
    assert [record.message for record in caplog.records] == ["dead letters cannot be read now"]
