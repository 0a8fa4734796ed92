"""What emit fills in, and what it refuses at the call."""

from __future__ import annotations

import uuid
from dataclasses import FrozenInstanceError, dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
from pydantic import BaseModel
from sqlalchemy.orm import Session

import outbox
from outbox.codec import size_of
from outbox.context import cause
from outbox.errors import EventTooLargeError, InvalidEventError, UnregisteredEventError
from tests.emitting import Happened, emit, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

CAUSE = outbox.Envelope(
    id="c-1",
    source="/other",
    type="other.happened",
    time=datetime.now(UTC),
    data=b"{}",
    actor="user:42",
    traceparent="00-1-2-01",
    tracestate="a=b",
)


@pytest.fixture
def session(sqlite_engine: sa.Engine) -> Iterator[Session]:
    with Session(sqlite_engine) as session, session.begin():
        yield session


@pytest.fixture
def handling() -> Iterator[None]:
    token = cause.set(CAUSE)
    yield
    cause.reset(token)


def test_an_event_needs_nothing_but_its_data(session: Session) -> None:
    before = datetime.now(UTC)
    envelope = outbox.emit(session, Happened(name="a", key="k-1"))
    assert envelope == outbox.Envelope(
        id=envelope.id,
        source=None,
        type="test.happened",
        time=envelope.time,
        data=b'{"name":"a","key":"k-1"}',
        partition_key="k-1",
    )
    assert uuid.UUID(envelope.id).version == 7
    assert before <= envelope.time <= datetime.now(UTC)


def test_ids_and_times_may_be_given(session: Session) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2)))
    given = uuid.uuid4()
    event = Happened(name="a", key="field")
    envelope = outbox.emit(session, event, id=str(given).upper(), time=moment, key="other")
    assert envelope.id == emit(session, "b", id=given).id == str(given)
    assert envelope.time == moment
    assert envelope.partition_key == "other"


@pytest.mark.usefixtures("handling")
def test_in_a_handler_an_event_names_its_cause(session: Session) -> None:
    envelope = emit(session, "a")
    assert envelope.correlation_id == envelope.causation_id == "c-1"
    assert envelope.actor == "user:42"
    assert (envelope.traceparent, envelope.tracestate) == ("00-1-2-01", "a=b")


def test_a_chain_keeps_the_correlation_of_its_first_event(session: Session) -> None:
    token = cause.set(replace(CAUSE, correlation_id="first"))
    context = outbox.Context(CAUSE, session, 1)
    envelope = context.emit(Happened(name="a"), subject="s", headers={"h": "v"})
    cause.reset(token)
    assert (envelope.correlation_id, envelope.causation_id) == ("first", "c-1")
    assert (envelope.subject, envelope.headers) == ("s", {"h": "v"})


@pytest.mark.usefixtures("handling")
def test_in_a_handler_what_is_given_counts(session: Session) -> None:
    envelope = emit(
        session, "a", actor="me", correlation_id="x", causation_id="y", traceparent="00-3-4-00"
    )
    assert (envelope.actor, envelope.correlation_id, envelope.causation_id) == ("me", "x", "y")
    assert (envelope.traceparent, envelope.tracestate) == ("00-3-4-00", None)


def test_outside_a_handler_there_is_no_correlation(session: Session) -> None:
    envelope = emit(session, "a")
    assert envelope.correlation_id is envelope.causation_id is envelope.actor is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": datetime(2026, 1, 1)}, "timezone-aware"),  # noqa: DTZ001  # that is the point
        ({"time": "2026-01-01"}, "timezone-aware"),
        ({"time": datetime.max.replace(tzinfo=UTC)}, "year"),
        ({"id": "no-uuid"}, "id is not a UUID"),
        ({"id": 7}, "id is not a UUID"),
        ({"key": ""}, "key is empty"),
        ({"key": 7}, "key has to be a str, not int"),
        ({"key": "a\0b"}, "key has a character"),
        ({"key": "\ud800"}, "key has a character"),
        ({"key": "é" * 501}, "key is longer than 1000 bytes"),
        ({"source": "x" * 1_001}, "source is longer than 1000 bytes"),
        ({"subject": ""}, "subject is empty"),
        ({"topic": "\0"}, "topic has a character"),
        ({"source": ""}, "source is empty"),
        ({"actor": "\0"}, "actor has a character"),
        ({"correlation_id": ""}, "correlation_id is empty"),
        ({"causation_id": "\0"}, "causation_id has a character"),
        ({"traceparent": ""}, "traceparent is empty"),
        ({"tracestate": b"x"}, "tracestate has to be a str, not bytes"),
        ({"dataschema": ""}, "dataschema is empty"),
        ({"headers": [("a", "b")]}, "a mapping"),
        ({"headers": {"": "x"}}, "name of a header is empty"),
        ({"headers": {1: "x"}}, "name of a header has to be a str"),
        ({"headers": {"a\0": "x"}}, "name of a header has a character"),
        ({"headers": {"a": 1}}, "header 'a' has to be a str, not int"),
        ({"headers": {"a": None}}, "header 'a' is None"),
        ({"headers": {"a": "\0"}}, "header 'a' has a character"),
        ({"headers": {"ce_id": "x"}}, "'ce_id' has a name of CloudEvents"),
        ({"headers": {"Traceparent": "x"}}, "'Traceparent' has a name of CloudEvents"),
        ({"headers": {"content-type": "x"}}, "'content-type' has a name of CloudEvents"),
    ],
)
def test_an_attribute_that_is_not_valid_is_refused(
    session: Session, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidEventError, match=message):
        outbox.emit(session, Happened(name="a"), **options)


def test_a_key_field_that_is_not_valid_is_refused(session: Session) -> None:
    with pytest.raises(InvalidEventError, match=r"key field 'key' of test\.happened v1 is empty"):
        emit(session, "a", key="")


def test_an_event_of_an_unregistered_class_is_refused(session: Session) -> None:
    class Unregistered(BaseModel):
        name: str

    class Derived(Happened):
        pass

    for event in (Unregistered(name="x"), Derived(name="x"), {"name": "x"}, None):
        with pytest.raises(UnregisteredEventError, match=r"@outbox\.event"):
            outbox.emit(session, event)
    with pytest.raises(UnregisteredEventError, match="a class is no event: make an instance"):
        outbox.emit(session, Happened)


@outbox.event("test.recorded")
@dataclass
class Recorded:
    name: str
    count: int


def test_invalid_data_is_refused_without_being_quoted(session: Session) -> None:
    wrong: dict[str, Any] = {"name": "secret", "key": ["secret"]}
    for event in (
        Happened.model_construct(**wrong),
        Recorded("secret", "secret"),  # type: ignore[arg-type]  # that is the point
        Recorded(object(), 1),  # type: ignore[arg-type]  # that is the point
    ):
        with pytest.raises(InvalidEventError, match="does not fit its own type") as caught:
            outbox.emit(session, event)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_a_misfit_names_the_field_and_the_rule(session: Session) -> None:
    with pytest.raises(InvalidEventError, match="count: Input should be a valid integer"):
        outbox.emit(session, Recorded("a", "x"))  # type: ignore[arg-type]  # that is the point


@outbox.event("test.measured")
class Measured(TypedDict):
    name: Any
    reading: Any


def test_a_field_that_cannot_become_json_is_named(session: Session) -> None:
    with pytest.raises(InvalidEventError, match="Recorded: name: has a value that cannot become"):
        outbox.emit(session, Recorded(object(), 1))  # type: ignore[arg-type]  # that is the point
    with pytest.raises(InvalidEventError, match="Measured: reading: has a value that cannot"):
        outbox.emit(session, Measured(name="a", reading={"at": [object()]}))
    wrong: dict[str, Any] = {"name": "\udc00", "key": object()}
    with pytest.raises(InvalidEventError, match="Happened: key, name: has a value that cannot"):
        outbox.emit(session, Happened.model_construct(**wrong))


def test_the_envelope_is_complete_and_frozen(session: Session) -> None:
    envelope = emit(session, "a")
    assert replace(envelope) == envelope
    with pytest.raises(FrozenInstanceError):
        envelope.subject = "s"  # type: ignore[misc]  # that is the point


def test_an_event_over_the_limit_is_refused_with_both_sizes(session: Session) -> None:
    size = size_of(emit(session, "x" * 1000, headers={"h": "ü"}))
    emit(session, "x" * 1000, headers={"h": "ü"}, size_limit=size)
    with pytest.raises(EventTooLargeError, match=f"{size:,} bytes, the limit is {size - 1:,}"):
        emit(session, "x" * 1000, headers={"h": "ü"}, size_limit=size - 1)
    with pytest.raises(EventTooLargeError, match=r"raise size_limit \(max_record_bytes"):
        emit(session, "x" * 1_000_000)


def test_nothing_refused_is_written(sqlite_engine: sa.Engine) -> None:
    with Session(sqlite_engine) as session, session.begin():
        emit(session, "a")
        with pytest.raises(InvalidEventError):
            emit(session, "b", subject="")
        with pytest.raises(EventTooLargeError):
            emit(session, "c", size_limit=1)
    assert len(read(sqlite_engine)) == 1
