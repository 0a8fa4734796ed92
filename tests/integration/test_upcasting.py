"""Events of old versions, handled by a consumer that knows the newest class alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from pydantic import BaseModel

import outbox
from outbox import dead_letter
from outbox.consumer import Consumer
from outbox.settlement import Counts
from outbox.upcasters import upcasters
from tests.integration.consuming import (
    Base,
    Effect,
    ListSubscriber,
    consume,
    counted,
    effects,
    letters,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

TYPE = "tests.upcasting.counted"


@outbox.event(TYPE, version=3, key="key")
class Counted(BaseModel):
    key: str
    n: int


@outbox.upcast(Counted, from_version=1)
def names_are_keys(data: dict[str, Any]) -> dict[str, Any]:
    return {"key": data["name"], "number": data["number"]}


@outbox.upcast(Counted, from_version=2)
def numbers_are_n(data: dict[str, Any]) -> dict[str, Any]:
    return {"key": data["key"], "n": int(data["number"])}


def old(key: str, n: object, **attributes: Any) -> Any:
    data = orjson.dumps({"name": key, "number": n})
    return counted(key, 0, type=TYPE, version=1, data=data, **attributes)


def newer(key: str, n: int) -> Any:
    return counted(key, 0, type=TYPE, version=2, data=orjson.dumps({"key": key, "number": n}))


def new(key: str, n: int) -> Any:
    return counted(key, n, type=TYPE, version=3)


@pytest.fixture(params=["postgres", "sqlite"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    made: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    Base.metadata.create_all(made)
    return made


@pytest.fixture
def consumer(engine: sa.Engine) -> Consumer:
    made = Consumer("tests", database=engine)

    @made.on(Counted)
    def write(event: Counted, context: Any) -> None:
        context.session.add(Effect(key=event.key, n=event.n))

    return made


def test_versions_of_a_key_are_handled_in_order_and_once(
    engine: sa.Engine, consumer: Consumer
) -> None:
    makers = [old, newer, new]
    log = [makers[n % 3](f"k{n % 5}", n) for n in range(300)]
    assert consume(consumer, log) == Counts(handled=300)
    assert consume(consumer, log) == Counts(duplicate=300)
    assert effects(engine) == [(f"k{n % 5}", n) for n in range(300)]


def test_an_event_that_an_upcaster_cannot_lift_is_dead_until_the_upcaster_can(
    engine: sa.Engine, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = [old("k", 1), old("k", "two"), new("k", 3), old("other", 4)]
    assert consume(consumer, log) == Counts(handled=2, dead=1, parked=1)
    assert effects(engine) == [("k", 1), ("other", 4)]
    dead, parked = letters(engine)
    assert (dead.attempt_count, parked.status) == (3, "parked")
    assert "ValueError: invalid literal for int()" in dead.reason

    def corrected(data: dict[str, Any]) -> dict[str, Any]:
        return {"key": data["key"], "n": {"two": 2}[data["number"]]}

    step = (TYPE, 2)
    repaired = replace(upcasters._steps[step], function=corrected)
    monkeypatch.setitem(upcasters._steps, step, repaired)
    with engine.begin() as connection:
        dead_letter.request(connection, [dead.id])
    assert consume(consumer, ListSubscriber([])).handled == 2
    assert effects(engine)[2:] == [("k", 2), ("k", 3)]


def test_a_version_without_upcaster_is_dead_at_once(engine: sa.Engine, consumer: Consumer) -> None:
    assert consume(consumer, [counted("k", 1, type=TYPE, version=4)]) == Counts(dead=1)
    (letter,) = letters(engine)
    assert letter.attempt_count == 1
    assert "v4: this consumer handles v3 alone" in letter.reason
