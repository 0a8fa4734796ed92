"""Old events, lifted to the class that handles them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

import outbox
from outbox.envelope import Envelope
from outbox.errors import (
    DecodeError,
    EventDefinitionError,
    PermanentError,
    UnregisteredEventError,
    UsageError,
)
from outbox.handlers import Handlers
from outbox.upcasters import Upcasters, upcasters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@outbox.event("upcast.paid", version=3)
@dataclass
class Paid:
    cents: int
    currency: str


@outbox.event("upcast.paid", version=2)
@dataclass
class PaidBefore:
    cents: Decimal


@outbox.event("upcast.refunded", version=3)
@dataclass
class Refunded:
    cents: int


@outbox.upcast(Paid, from_version=1)
def euros_are_cents(data: dict[str, Any]) -> dict[str, Any]:
    return {"cents": Decimal(data.pop("euros")) * 100}


@outbox.upcast(Paid, from_version=2)
def currencies_come(data: dict[str, Any]) -> dict[str, Any]:
    data["cents"] = int(Decimal(data["cents"]))
    data["currency"] = "EUR"
    return data


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Upcasters:
    """Upcasters of one test alone."""
    made = Upcasters()
    for module in ("upcasters", "handlers"):
        monkeypatch.setattr(f"outbox.{module}.upcasters", made)
    return made


def envelope(data: bytes, version: int = 1, **attributes: Any) -> Envelope:
    values: dict[str, Any] = {"type": "upcast.paid"} | attributes
    return Envelope(
        id="1", source="/t", time=datetime.now(UTC), data=data, version=version, **values
    )


def handle(event: object, context: object) -> None: ...


def handlers(*events: type | str) -> Handlers:
    made = Handlers()
    for event in events:
        made.add(event, handle)
    return made


def events(made: Handlers, arriving: Envelope) -> list[object]:
    return [call.event for call in made.load(arriving)]


def test_an_old_event_is_lifted_step_by_step() -> None:
    paid = handlers(Paid)
    assert events(paid, envelope(b'{"euros": "5"}')) == [Paid(500, "EUR")]
    assert events(paid, envelope(b'{"cents": "7"}', 2)) == [Paid(7, "EUR")]
    assert events(paid, envelope(b'{"cents": 7, "currency": "USD"}', 3)) == [Paid(7, "USD")]


def test_it_is_lifted_to_the_next_version_that_has_a_handler() -> None:
    both = handlers(Paid, PaidBefore)
    assert events(both, envelope(b'{"euros": "5"}')) == [PaidBefore(Decimal(500))]
    assert events(both, envelope(b'{"cents": "7"}', 2)) == [PaidBefore(Decimal(7))]


def test_each_handler_gets_an_object_of_its_own_and_one_by_name_the_data_as_it_came() -> None:
    made = handlers(Paid, "upcast.paid", Paid)
    first, plain, second = events(made, envelope(b'{"euros": "5"}'))
    assert plain == {"euros": "5"}
    assert first == second
    assert first is not second


def test_a_later_version_and_one_without_upcaster_are_refused_with_what_to_do() -> None:
    paid = handlers(Paid)
    with pytest.raises(
        PermanentError, match=r"v4: this consumer handles v3 alone; add a handler fo"
    ):
        paid.load(envelope(b"{}", 4))
    old = envelope(b"{}", 1, type="upcast.refunded")
    with pytest.raises(PermanentError, match=r"or @outbox\.upcast\(…, from_version=1\)"):
        handlers(Refunded).load(old)


def test_what_no_upcaster_can_read_is_a_permanent_failure() -> None:
    with pytest.raises(DecodeError, match="not JSON"):
        handlers(Paid).load(envelope(b"{"))
    with pytest.raises(PermanentError, match="no object"):
        handlers(Paid).load(envelope(b"[1]"))


def test_a_result_that_does_not_fit_is_told_by_field_with_where_it_came_from(
    own: Upcasters,
) -> None:
    @outbox.upcast(PaidBefore, from_version=1)
    def lift(data: dict[str, Any]) -> dict[str, Any]:
        return data

    pattern = r"data, lifted from v1, does not fit upcast\.paid v2: cents: "
    with pytest.raises(PermanentError, match=pattern) as caught:
        handlers(PaidBefore).load(envelope(b'{"cents": "secret"}'))
    assert "secret" not in str(caught.value)


def test_what_an_upcaster_raises_fails_the_handler(own: Upcasters) -> None:
    @outbox.upcast(PaidBefore, from_version=1)
    def lift(data: dict[str, Any]) -> dict[str, Any]:
        return {"cents": data["missing"]}

    (call,) = handlers(PaidBefore).load(envelope(b"{}"))
    with pytest.raises(KeyError, match="missing"):
        call.handler.function(call.event, None)  # type: ignore[arg-type]  # it looks at neither


def test_an_upcaster_that_returns_nothing_fails_the_handler(own: Upcasters) -> None:
    @outbox.upcast(PaidBefore, from_version=1)
    def lift(data: dict[str, Any]) -> dict[str, Any]:
        data["cents"] = 5
        return None  # type: ignore[return-value]  # that is the mistake

    (call,) = handlers(PaidBefore).load(envelope(b"{}"))
    with pytest.raises(UsageError, match=r"lift, the upcaster of upcast\.paid from version 1, ret"):
        call.handler.function(call.event, None)  # type: ignore[arg-type]  # it looks at neither


def test_an_upcaster_may_give_an_event_up(own: Upcasters) -> None:
    @outbox.upcast(PaidBefore, from_version=1)
    def lift(data: dict[str, Any]) -> dict[str, Any]:
        raise PermanentError("nobody knows the currency")

    with pytest.raises(PermanentError, match="currency"):
        handlers(PaidBefore).load(envelope(b"{}"))


def test_numbers_and_texts_pass_unharmed(own: Upcasters) -> None:
    @outbox.upcast(PaidBefore, from_version=1)
    def lift(data: dict[str, Any]) -> dict[str, Any]:
        return {"cents": data["n"] + 1}

    (found,) = events(handlers(PaidBefore), envelope(b'{"n": 123456789012345678901234567890}'))
    assert found == PaidBefore(Decimal(123456789012345678901234567891))


def test_a_gap_is_found_when_all_is_imported(own: Upcasters) -> None:
    outbox.upcast(Refunded, from_version=1)(euros_are_cents)
    with pytest.raises(EventDefinitionError, match=r"none from version 2 .*Refunded, version 3"):
        handlers(Refunded).check()
    handlers(Paid).check()
    outbox.upcast(Refunded, from_version=2)(currencies_come)
    handlers(Refunded).check()


def test_two_upcasters_from_one_version_are_refused_with_both_places() -> None:
    places = (
        r"euros_are_cents \(.*test_upcasters\.py:\d+\) and .*again \(.*test_upcasters\.py:\d+\)"
    )
    with pytest.raises(EventDefinitionError, match=places):

        @outbox.upcast(PaidBefore, from_version=1)
        def again(data: dict[str, Any]) -> dict[str, Any]:
            return data

    outbox.upcast(Paid, from_version=1)(euros_are_cents)  # its module was reloaded
    assert upcasters.chain("upcast.paid", 1, 3)


def test_two_upcasters_of_one_name_from_one_version_are_a_clash() -> None:
    @outbox.event("upcast.beside", version=2)
    @dataclass
    class Beside:
        pass

    @outbox.upcast(Beside, from_version=1)
    def lift(data: dict[str, Any]) -> dict[str, Any]:
        return data

    with pytest.raises(EventDefinitionError, match="has two upcasters from version 1"):

        @outbox.upcast(Beside, from_version=1)
        def lift(data: dict[str, Any]) -> dict[str, Any]:
            return data


@pytest.mark.parametrize("version", [0, 3, 4, "1", None, True])
def test_an_upcaster_starts_below_the_version_of_its_class(version: Any) -> None:
    with pytest.raises(
        EventDefinitionError, match=r"which is upcast\.paid v3, starts from version"
    ):
        outbox.upcast(Paid, from_version=version)


def test_only_an_event_class_has_upcasters() -> None:
    with pytest.raises(UnregisteredEventError, match="int"):
        outbox.upcast(int, from_version=1)


async def waiting(data: dict[str, Any]) -> dict[str, Any]:
    return data


def yielding(data: dict[str, Any]) -> Iterator[int]:
    yield 1


def without() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("function", [waiting, yielding, without, dict])
def test_what_could_never_lift_is_refused_at_import(
    function: Callable[..., Any], own: Upcasters
) -> None:
    with pytest.raises(EventDefinitionError, match=function.__name__):
        outbox.upcast(Paid, from_version=1)(function)
