"""From which age on rows are deleted, as operators write it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from outbox.errors import ConfigurationError
from outbox.settings import load
from relay.retention import Pace

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def write(tmp_path: Path) -> Path:
    return tmp_path / "outbox.toml"


def settings(file: Path, text: str) -> Path:
    file.write_text(f'database_url = "sqlite://"\n{text}')
    return file


def test_nothing_is_deleted_unless_an_age_is_set(write: Path) -> None:
    assert not load(settings(write, "")).retention.is_on


def test_an_age_is_a_number_with_a_unit(write: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_RETENTION__DEAD_LETTERS", "15m")
    found = load(settings(write, '[retention]\nevents = "7d"\ninbox = "200h"')).retention
    assert (found.events, found.inbox) == (timedelta(days=7), timedelta(hours=200))
    assert found.dead_letters == timedelta(minutes=15)
    assert found.is_on


@pytest.mark.parametrize("age", ['"7"', "7", '"-1d"', '"a week"', '"P7D"'])
def test_anything_else_is_refused_in_one_sentence(write: Path, age: str) -> None:
    with pytest.raises(ConfigurationError, match=r'retention\.events: is no age such as "90s"'):
        load(settings(write, f"[retention]\nevents = {age}"))


def test_the_inbox_has_to_outlive_the_events(write: Path) -> None:
    with pytest.raises(ConfigurationError, match="inbox has to be longer than events"):
        load(settings(write, '[retention]\nevents = "7d"\ninbox = "7d"'))


def test_a_route_cannot_have_the_name_of_what_is_no_route(write: Path) -> None:
    with pytest.raises(ConfigurationError, match="may not begin with '@', as '@retention' does"):
        load(settings(write, '[routes."@retention"]\ntransport = "memory"'))


def test_batches_shrink_and_pauses_grow_under_load() -> None:
    pace = Pace()
    assert pace.after(0.06) == pytest.approx(0.18)
    assert pace.size == 1_000
    assert pace.after(0.4) == pytest.approx(1.2)
    assert pace.size == 500
    for _ in range(10):
        pace.after(9.0)
    assert pace.size == Pace.SMALLEST
    for _ in range(20):
        pace.after(0.001)
    assert pace.size == Pace.LARGEST
