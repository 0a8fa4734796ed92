"""Where settings come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from outbox.settings import Settings, load

if TYPE_CHECKING:
    from pathlib import Path

GIVEN: dict[str, Any] = {"database_url": "sqlite://", "routes": {"own": {"transport": "memory"}}}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_DATABASE_URL", "sqlite:///another")
    monkeypatch.setenv("OUTBOX_ROUTES__KAFKA__TRANSPORT", "kafka")
    monkeypatch.setenv("OUTBOX_ROUTES__OWN__PAGE_SIZE", "7")


def test_what_a_program_makes_is_what_it_passes() -> None:
    made = Settings.model_validate(GIVEN)
    assert str(made.url) == "sqlite://"
    assert made.routes.keys() == {"own"}
    assert made == Settings(**GIVEN)


def test_the_environment_wins_over_the_file_setting_by_setting(tmp_path: Path) -> None:
    file = tmp_path / "outbox.toml"
    file.write_text('database_url = "sqlite://"\n[routes.own]\ntransport = "memory"\n')
    read = load(file)
    assert str(read.url) == "sqlite:///another"
    assert read.routes.keys() == {"own", "kafka"}
    assert (read.routes["own"].transport, read.routes["own"].page_size) == ("memory", 7)
    routes = {"own": {"transport": "memory", "page_size": 7}, "kafka": {"transport": "kafka"}}
    assert read == Settings.model_validate({"database_url": "sqlite:///another", "routes": routes})
