"""Which functions may be handlers, and what they are called with."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

import outbox
from outbox.consumer import Consumer
from outbox.envelope import Envelope
from outbox.errors import (
    ConfigurationError,
    DecodeError,
    EventDefinitionError,
    PermanentError,
    UnregisteredEventError,
)
from outbox.handlers import Handlers, is_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@outbox.event("tests.handlers.paid", version=2)
@dataclass
class Paid:
    cents: int


@outbox.event("tests.handlers.paid", version=1)
@dataclass
class PaidBefore:
    euros: int


def envelope(data: bytes = b'{"cents": 5}', **attributes: Any) -> Envelope:
    values: dict[str, Any] = {"type": "tests.handlers.paid", "version": 2} | attributes
    return Envelope(id="1", source="/t", time=datetime.now(UTC), data=data, **values)


def ignore(event: object, context: object) -> None:
    """Handle nothing."""


class Callable_:  # noqa: N801  # an object that is called
    def __call__(self, event: object, context: object) -> None: ...


class AsyncCallable:
    async def __call__(self, event: object, context: object) -> None: ...


async def ignore_async(event: object, context: object) -> None:
    """Handle nothing."""


def with_more(event: object, context: object, more: int = 1, *, other: int = 2) -> None:
    """Has defaults for what nobody gives it."""


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (ignore, False),
        (ignore_async, True),
        (with_more, False),
        (functools.partial(with_more, more=2), False),
        (functools.partial(ignore_async), True),
        (Callable_(), False),
        (AsyncCallable(), True),
        (lambda *_: None, False),
    ],
)
def test_what_takes_an_event_and_a_context_is_a_handler(
    function: Callable[..., Any],
    expected: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    Handlers().add(Paid, function)
    assert is_async(function) is expected


def one(event: object) -> None: ...
def three(event: object, context: object, session: object) -> None: ...
def named(event: object, context: object, *, session: object) -> None: ...
def generator(event: object, context: object) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("function", [one, three, named, generator, dict])
def test_what_could_never_be_called_is_refused_at_import(function: Callable[..., Any]) -> None:
    with pytest.raises(EventDefinitionError, match=function.__name__):
        Handlers().add(Paid, function)


def test_a_class_that_is_no_event_is_refused_at_import() -> None:
    with pytest.raises(UnregisteredEventError, match="int"):
        Handlers().add(int, ignore)


def test_the_decorator_returns_the_function() -> None:
    consumer = Consumer("tests", database="sqlite://")
    assert consumer.on(Paid)(ignore) is ignore
    assert consumer.handlers.types == ["tests.handlers.paid"]


def test_a_handler_gets_the_class_of_its_version() -> None:
    handlers = Handlers()
    handlers.add(Paid, ignore)
    handlers.add(PaidBefore, ignore)
    handlers.add("tests.handlers.paid", ignore)
    assert [call.event for call in handlers.load(envelope())] == [Paid(5), {"cents": 5}]
    before = envelope(b'{"euros": 7}', version=1)
    assert [call.event for call in handlers.load(before)] == [PaidBefore(7), {"euros": 7}]


def test_a_version_without_a_class_names_those_there_are() -> None:
    handlers = Handlers()
    handlers.add(Paid, ignore)
    handlers.add(PaidBefore, ignore)
    with pytest.raises(PermanentError, match=r"paid v3: this consumer handles v1, v2 alone"):
        handlers.load(envelope(version=3))


def test_each_load_gives_an_event_of_its_own() -> None:
    handlers = Handlers()
    handlers.add(Paid, ignore)
    event = envelope()
    handlers.load(event)[0].event.cents = 0
    assert handlers.load(event)[0].event == Paid(5)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/x+JSON"])
def test_a_handler_by_name_gets_parsed_json(content_type: str) -> None:
    handlers = Handlers()
    handlers.add("tests.handlers.paid", ignore)
    event = envelope(b"[1]", content_type=content_type, version=9)
    assert handlers.load(event)[0].event == [1]
    with pytest.raises(DecodeError):
        handlers.load(envelope(b"{", content_type=content_type))


def test_a_handler_by_name_gets_the_bytes_of_what_is_not_json() -> None:
    handlers = Handlers()
    handlers.add("tests.handlers.paid", ignore)
    event = envelope(b"\x00", content_type="application/octet-stream")
    assert handlers.load(event)[0].event == b"\x00"


def test_data_that_does_not_fit_is_told_by_field_and_without_the_data() -> None:
    handlers = Handlers()
    handlers.add(Paid, ignore)
    with pytest.raises(PermanentError, match=r"does not fit .*paid v2: cents: ") as caught:
        handlers.load(envelope(b'{"cents": "secret"}'))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("database", "message"),
    [
        ("no url :secret", "no SQLAlchemy URL"),
        ("nosuchdb://u:secret@h/d", "no SQLAlchemy URL"),
        ("mysql+aiomysql://u:secret@h/d", "the driver .aiomysql., which is not installed"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_without_its_password(
    database: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        _ = Consumer("tests", database=database).engine
    assert "secret" not in str(caught.value)
