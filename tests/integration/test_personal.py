"""Personal data from the emit to the handler, and what is left of it once a person is forgotten."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import uuid
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal

import attrs
import jsonschema
import orjson
import pytest
import sqlalchemy as sa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic_core import PydanticCustomError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from typing_extensions import TypedDict

import outbox
from outbox.codec import size_of
from outbox.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    EventTooLargeError,
    InvalidEventError,
    UsageError,
)
from outbox.event import catalogue
from outbox.insert import insert
from outbox.keys import TableKeyStore
from outbox.schema.document import document
from outbox.schema.fields import fields
from outbox.sealing import REDACTED, is_token, key_ids
from outbox.table import outbox_personal_key
from tests.integration.consuming import QUICK, consume, letters
from tests.personal import (
    MASTER,
    NAME,
    OTHER_MASTER,
    TYPE,
    Address,
    Registered,
    ada,
    stored,
    using,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from outbox.envelope import Envelope
    from outbox.keys import SubjectKey


@outbox.event("tests.personal.detailed", key="customer_id")
class Detailed(BaseModel):
    customer_id: str
    born: Annotated[date | None, outbox.Personal] = None
    code: Annotated[str, Field(pattern="^[A-Z]{2}-[0-9]{4}$"), outbox.Personal]
    home: Annotated[Address | None, outbox.Personal] = None
    scores: Annotated[list[int] | None, outbox.Personal] = None


@pytest.fixture(params=["postgres", "sqlite", "mariadb"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    found: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return found


@pytest.fixture
def store(engine: sa.Engine) -> Iterator[TableKeyStore]:
    made = TableKeyStore(outbox.MasterKeys(MASTER), engine)
    with using(made):
        yield made


def emit(engine: sa.Engine, *events: object) -> None:
    with Session(engine) as session, session.begin():
        session.connection()
        for event in events:
            outbox.emit(session, event)


def consumed(engine: sa.Engine, log: list[Envelope], name: str = "reader") -> list[Registered]:
    consumer = outbox.Consumer(name, database=engine)
    found: list[Registered] = []
    consumer.on(Registered)(lambda event, _: found.append(event))
    consume(consumer, log)
    return found


def test_what_is_stored_is_not_in_clear_and_a_consumer_reads_it(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    event = ada(friend_id="c-2", friend="Charles Babbage")
    emit(engine, event)
    (envelope,) = stored(engine)
    for clear in (b"Lovelace", b"1815", b"Square", b"Babbage"):
        assert clear not in envelope.data
    assert b"London" in envelope.data
    assert consumed(engine, [envelope]) == [event]


def test_what_is_stored_is_valid_under_the_schema_of_its_type(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    schema = document(catalogue.of(Detailed))
    validator = jsonschema.Draft202012Validator(schema)
    event = Detailed(
        customer_id="c-1",
        born=date(1815, 12, 10),
        code="AL-1815",
        home=Address(street="St James's Square 12", city="London"),
        scores=[1, 2],
    )
    emit(engine, event, Detailed(customer_id="c-2", code="CB-1791"))
    full, sparse = (orjson.loads(envelope.data) for envelope in stored(engine))
    assert all(is_token(full[name]) for name in ("born", "code", "home", "scores"))
    for data in (full, sparse, event.model_dump(mode="json")):
        validator.validate(data)
    for wrong in ({"born": 1815}, {"code": "outbox-personal:1:"}, {"home": 1}):
        assert not validator.is_valid(full | wrong), wrong
    assert {each.name: each.type for each in fields(schema) if each.is_personal} == {
        "born": "string date or null",
        "code": "string",
        "home": "object or null",
        "home.street": "string",
        "scores": "array of integer or null",
    }


def test_who_has_no_key_store_reads_that_nothing_is_to_be_read(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    emit(engine, ada())
    with using(None):
        (found,) = consumed(engine, stored(engine))
        assert (found.name, found.year, found.addresses[0].street) == (REDACTED, None, REDACTED)
        assert found.addresses[0].city == "London"
        plain: list[Any] = []
        consumer = outbox.Consumer("plain", database=engine)
        consumer.on(TYPE)(lambda event, _: plain.append(event))
        consume(consumer, stored(engine))
    assert plain[0]["name"] is None
    assert plain[0]["customer_id"] == "c-1"


def test_a_forgotten_person_is_gone_from_what_was_stored_and_nobody_else_is(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    emit(engine, ada(friend_id="c-2", friend="Charles"), ada(customer_id="c-3", name="Mary"))
    assert store.forget("c-1") == 1
    assert store.forget("c-1") == 0
    first, second = consumed(engine, stored(engine))
    assert (first.name, first.year, first.friend) == (REDACTED, None, "Charles")
    assert second.name == "Mary"
    with engine.connect() as connection:
        query = sa.select(outbox_personal_key).where(outbox_personal_key.c.subject == "c-1")
        (row,) = connection.execute(query)
    assert row.wrapped_key is None
    assert row.forgotten_at is not None


@dataclass
class Companion:
    customer_id: uuid.UUID
    name: Annotated[str, outbox.Personal(subject="customer_id")]


class Luggage(TypedDict):
    customer_id: str
    tags: dict[str, Annotated[str, outbox.Personal(subject="customer_id")]]


class Passenger(BaseModel):
    customer_id: str = Field(alias="customer")
    name: Annotated[str, outbox.Personal(subject="customer_id")]
    companions: list[Companion] = []
    luggage: Luggage | None = None


class Contact(BaseModel):
    email: Annotated[str, outbox.Personal(subject="customer_id")]


@outbox.event("tests.personal.booked", key="booking_id")
class Booked(BaseModel):
    booking_id: str
    customer_id: str
    contact: Contact
    passengers: list[Passenger] = []
    payload: Any = None


@attrs.frozen
class Seat:
    customer_id: str
    name: Annotated[str, outbox.Personal(subject="customer_id")]


@outbox.event("tests.personal.seated", key="booking_id")
@attrs.frozen
class Seated:
    booking_id: str
    customer_id: str
    seats: list[Seat]


def test_each_person_in_a_list_is_forgotten_alone(sqlite_engine: sa.Engine) -> None:
    ids = [uuid.UUID(int=number) for number in range(2)]
    bags: Luggage = {"customer_id": "c-3", "tags": {"blue": "Babbage"}}
    one = Passenger(customer="c-1", name="Ada", companions=[Companion(ids[0], "Byron")])
    two = Passenger(
        customer="c-2", name="Mary", companions=[Companion(ids[1], "Greig")], luggage=bags
    )
    contact = Contact(email="ada@example.com")
    booked = Booked(
        booking_id="b-1", customer_id="c-1", contact=contact, passengers=[one, two], payload=two
    )
    seated = Seated("b-1", "c-1", [Seat("c-1", "Ada"), Seat("c-2", "Mary")])
    store = TableKeyStore(outbox.MasterKeys(MASTER), sqlite_engine)
    found: list[Any] = []
    consumer = outbox.Consumer("booked", database=sqlite_engine)
    consumer.on(Booked)(lambda event, _: found.append(event))
    consumer.on(Seated)(lambda event, _: found.append(event))
    with using(store):
        emit(sqlite_engine, booked, seated)
        assert [store.forget(each) for each in ("c-2", "c-3", str(ids[1]), "b-1")] == [1, 1, 1, 0]
        consume(consumer, stored(sqlite_engine))
    event, seats = found
    assert (event.contact, event.passengers[0]) == (contact, one)
    assert event.passengers[1].name == REDACTED
    assert event.passengers[1].companions[0].name == REDACTED
    assert event.passengers[1].luggage["tags"] == {"blue": REDACTED}
    assert is_token(event.payload["name"])
    assert [each.name for each in seats.seats] == ["Ada", REDACTED]


def test_a_person_without_a_name_of_their_own_is_not_taken_for_another(
    sqlite_engine: sa.Engine,
) -> None:
    nobody: Any = Passenger.model_construct(customer_id="", name="Mary")
    contact = Contact(email="ada@example.com")
    event = Booked(booking_id="b", customer_id="c-1", contact=contact, payload=nobody)
    with pytest.raises(InvalidEventError, match="nothing in 'customer_id'"):
        emit(sqlite_engine, event)


def test_a_marked_type_with_a_subject_is_written_outside_of_a_class_too() -> None:
    hint = Annotated[str, outbox.Personal(subject="customer_id")]
    assert TypeAdapter(list[hint]).dump_json(["Ada"]) == b'["Ada"]'


def test_a_person_who_comes_back_has_a_new_key(engine: sa.Engine, store: TableKeyStore) -> None:
    emit(engine, ada())
    store.forget("c-1")
    emit(engine, ada())
    assert [event.name for event in consumed(engine, stored(engine))] == [REDACTED, NAME]


def test_events_of_one_person_share_a_key_in_one_transaction_and_in_several(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    emit(engine, ada(), ada())
    emit(engine, ada())
    with engine.connect() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(outbox_personal_key))
    assert count == 1


def test_a_transaction_that_is_rolled_back_leaves_no_key(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    with Session(engine) as session:
        session.connection()
        outbox.emit(session, ada())
        session.flush()
        session.rollback()
    with engine.connect() as connection:
        assert connection.execute(sa.select(outbox_personal_key)).all() == []
    assert stored(engine) == []


def test_a_savepoint_that_is_rolled_back_takes_its_values_with_it(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    with Session(engine) as session, session.begin():
        session.connection()
        outbox.emit(session, ada(name="kept"))
        savepoint = session.begin_nested()
        outbox.emit(session, ada(name="dropped"))
        savepoint.rollback()
        outbox.emit(session, ada(name="kept too"))
    assert [event.name for event in consumed(engine, stored(engine))] == ["kept", "kept too"]


@pytest.mark.parametrize("engine", ["postgres", "mariadb"], indirect=True)
def test_writers_who_meet_at_a_new_person_use_one_key(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    """All look before one has made it; SQLite has one writer at a time."""
    barrier = threading.Barrier(4)

    def write() -> None:
        with engine.begin() as connection:
            connection.execute(sa.select(outbox_personal_key)).all()
            barrier.wait(30)
            outbox.emit(connection, ada())

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.name for event in consumed(engine, stored(engine))] == [NAME] * 4
    with engine.connect() as connection:
        assert len(connection.execute(sa.select(outbox_personal_key)).all()) == 1


def test_connections_and_async_sessions_encrypt_as_well(
    sqlite_url: str, sqlite_engine: sa.Engine
) -> None:
    async def on_session() -> None:
        engine = create_async_engine(sqlite_url.replace("sqlite://", "sqlite+aiosqlite://"))
        async with AsyncSession(engine) as session, session.begin():
            await session.connection()
            outbox.emit(session, ada(name="async"))
        await engine.dispose()

    with using(TableKeyStore(outbox.MasterKeys(MASTER), sqlite_engine)):
        asyncio.run(on_session())
        with sqlite_engine.begin() as connection:
            outbox.emit(connection, ada(name="core"))
        found = consumed(sqlite_engine, stored(sqlite_engine))
    assert [event.name for event in found] == ["async", "core"]


def test_a_process_without_keys_says_at_the_call_what_to_do(engine: sa.Engine) -> None:
    with Session(engine) as session, session.begin():
        session.connection()
        with pytest.raises(ConfigurationError, match="use_key_store"):
            outbox.emit(session, ada())
    assert stored(engine) == []


@pytest.mark.parametrize("store", [TableKeyStore, outbox.MasterKeys(MASTER), "keys"])
def test_what_is_no_key_store_is_refused_at_the_call(store: Any) -> None:
    with pytest.raises(UsageError, match="is no key store"):
        outbox.use_key_store(store)


def test_a_drivers_own_connection_is_refused(
    sqlite_engine: sa.Engine,
) -> None:
    with using(TableKeyStore(outbox.MasterKeys(MASTER))), sqlite_engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN")
        with pytest.raises(UsageError, match="Session or Connection"):
            outbox.emit(driver, ada())


def test_personal_data_of_nobody_is_refused(engine: sa.Engine, store: TableKeyStore) -> None:
    with Session(engine) as session, session.begin():
        session.connection()
        with pytest.raises(InvalidEventError, match="'friend_id'"):
            outbox.emit(session, ada(friend="Charles"))


@outbox.event("tests.personal.lifted", key="id")
class FullyNamed(BaseModel):
    id: str
    name: Annotated[str, outbox.Personal]
    nickname: Annotated[str, outbox.Personal]
    born: Annotated[date | None, outbox.Personal] = None


@outbox.event("tests.personal.lifted", key="id", version=2)
class Named(BaseModel):
    id: str
    name: Annotated[str, outbox.Personal]
    names: list[Annotated[str, outbox.Personal]]
    initial: str | None
    year: int | None


@outbox.upcast(Named, from_version=1)
def names_come_together(data: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": data["id"],
        "name": data["name"],
        "names": [data["name"], data["nickname"]],
        "initial": data["name"] and data["name"][0],
        "year": data["born"] and int(data["born"][:4]),
    }


READABLE = Named(id="1", name=NAME, names=[NAME, "Ada"], initial="A", year=1815)
UNREADABLE = Named(id="1", name=REDACTED, names=[REDACTED] * 2, initial=None, year=None)


@pytest.mark.parametrize(
    ("reader", "expected"),
    [("keys", READABLE), ("no keys", UNREADABLE), ("forgotten", UNREADABLE)],
)
def test_an_upcaster_gets_null_for_what_cannot_be_read_and_its_event_is_as_any_other(
    sqlite_engine: sa.Engine, reader: str, expected: Named
) -> None:
    store = TableKeyStore(outbox.MasterKeys(MASTER), sqlite_engine)
    with using(store):
        emit(sqlite_engine, FullyNamed(id="1", name=NAME, nickname="Ada", born=date(1815, 12, 10)))
    if reader == "forgotten":
        assert store.forget("1") == 1
    found: list[Named] = []
    consumer = outbox.Consumer("named", database=sqlite_engine)
    consumer.on(Named)(lambda event, _: found.append(event))
    with using(None if reader == "no keys" else store):
        consume(consumer, stored(sqlite_engine))
    assert (found, letters(sqlite_engine)) == ([expected], [])


def test_null_from_an_upcaster_is_no_gap_where_all_could_be_read(sqlite_engine: sa.Engine) -> None:
    data = orjson.dumps({"id": "1", "name": None, "nickname": "Ada", "born": None})
    with using(TableKeyStore(outbox.MasterKeys(MASTER), sqlite_engine)):
        emit(sqlite_engine, FullyNamed(id="1", name=NAME, nickname="Ada"))
    consumer = outbox.Consumer("named", database=sqlite_engine)
    consumer.on(Named)(lambda _event, _context: None)
    consume(consumer, [replace(each, data=data) for each in stored(sqlite_engine)])
    (letter,) = letters(sqlite_engine)
    assert "name: Input should be a valid string" in letter.reason


@pytest.mark.parametrize("cls", [Registered, FullyNamed])
def test_a_text_like_a_token_is_not_taken_for_a_lost_value_but_refused(
    sqlite_engine: sa.Engine, cls: type[BaseModel]
) -> None:
    token = f"outbox-personal:1:{'a' * 32}:{'A' * 41}"
    event = cls(customer_id="c-1", id="1", name=token, nickname=token)
    assert event.name == token  # type: ignore[attr-defined]  # both have one
    with pytest.raises(InvalidEventError, match="name: has a text in the form of an encrypted"):
        emit(sqlite_engine, event)


@outbox.event("tests.personal.comment", key="id")
class Comment(BaseModel):
    id: str
    text: str = ""
    tags: dict[str, str] = {}
    name: Annotated[str | None, outbox.Personal] = None
    size: Annotated[float | None, outbox.Personal] = None
    home: Annotated[Address | None, outbox.Personal] = None
    payload: Any = None


def comments(engine: sa.Engine, on: type[Comment] | str) -> list[Any]:
    """Return what a consumer gets of all that is stored."""
    consumer = outbox.Consumer(f"comments of {on}", database=engine)
    found: list[Any] = []
    consumer.on(on)(lambda event, _: found.append(event))
    consume(consumer, stored(engine))
    assert letters(engine) == []
    return found


@pytest.mark.parametrize("is_reader", [True, False])
def test_no_text_of_a_user_stops_a_worker_or_becomes_a_letter(
    sqlite_engine: sa.Engine, *, is_reader: bool
) -> None:
    store = TableKeyStore(outbox.MasterKeys(MASTER), sqlite_engine)
    with using(store):
        emit(sqlite_engine, Comment(id="1", name=NAME))
        (key_id,) = key_ids(stored(sqlite_engine)[0].data)
        token = f"outbox-personal:1:{key_id}:{'A' * 41}"  # a length that base64 cannot have
        emit(sqlite_engine, Comment(id="1", text=f'x"{token}'), Comment(id="1", tags={token: "v"}))
        for wrong in (Comment(id="1", text=token), Comment.model_construct(id="1", name=token)):
            with pytest.raises(InvalidEventError, match="the form of an encrypted value"):
                emit(sqlite_engine, wrong)
    # Another writer may have written it.
    with sqlite_engine.begin() as connection:
        made = replace(stored(sqlite_engine)[1], id=str(uuid.uuid4()), sequence=None)
        insert(connection, [replace(made, data=orjson.dumps({"id": "1", "text": token}))])
    with using(store if is_reader else None):
        typed = comments(sqlite_engine, Comment)
        plain = comments(sqlite_engine, "tests.personal.comment")
    assert typed[0].name == (NAME if is_reader else None)
    for found in (typed, [Comment(**{**each, "text": each["text"] or ""}) for each in plain]):
        assert found[1:3] == [
            Comment(id="1", text=f'x"{token}'),
            Comment(id="1", tags={token: "v"}),
        ]
    assert typed[3].text == token


def test_a_marked_object_comes_back_with_what_is_marked_in_it(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    event = Comment(id="1", home=Address(street="St James's Square 12", city="London"))
    emit(engine, event)
    assert comments(engine, Comment) == [event]


def test_what_hides_behind_any_is_encrypted_too(engine: sa.Engine, store: TableKeyStore) -> None:
    event = Comment(id="1", payload=Address(street="St James's Square 12", city="London"))
    emit(engine, event)
    assert b"Square" not in stored(engine)[0].data
    assert comments(engine, Comment)[0].payload == event.payload.model_dump()


@outbox.event("tests.personal.numbers", key="id")
class Numbers(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings", ser_json_bytes="base64")
    id: str
    values: Annotated[list[float] | None, outbox.Personal]
    plain: list[float]


def test_a_value_is_written_as_its_class_writes_it(engine: sa.Engine, store: TableKeyStore) -> None:
    numbers = [float("inf"), float("-inf"), 0.5]
    emit(engine, Numbers(id="1", values=numbers, plain=numbers))
    found: list[Any] = []
    consumer = outbox.Consumer("numbers", database=engine)
    consumer.on("tests.personal.numbers")(lambda event, _: found.append(event))
    consume(consumer, stored(engine))
    assert found == [
        {"id": "1", "values": found[0]["plain"], "plain": ["Infinity", "-Infinity", 0.5]}
    ]


def test_a_personal_value_is_held_to_the_rules_of_its_field_and_not_quoted(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    wrong = Detailed.model_construct(customer_id="c-1", code="Ada")
    with pytest.raises(InvalidEventError, match="code: String should match") as caught:
        emit(engine, wrong)
    assert "Ada" not in str(caught.value)


def test_the_size_of_an_event_is_that_of_its_tokens(
    sqlite_engine: sa.Engine,
) -> None:
    event = Comment(id="1", name="x" * 1000, text="y" * 1000)
    with using(TableKeyStore(outbox.MasterKeys(MASTER), sqlite_engine)):
        with sqlite_engine.begin() as connection:
            outbox.emit(connection, event)
        size = size_of(stored(sqlite_engine)[0]) + len("/tests") - len("/")
        with sqlite_engine.begin() as connection, pytest.raises(EventTooLargeError) as caught:
            outbox.emit(connection, event, source="/", size_limit=1000)
        told = re.search("of ([0-9,]+) bytes", str(caught.value))
        assert told is not None
        exact = int(told[1].replace(",", ""))
        assert abs(exact - size) < 100
        with sqlite_engine.begin() as connection:
            outbox.emit(connection, event, source="/", size_limit=exact)
            with pytest.raises(EventTooLargeError):
                outbox.emit(connection, event, source="/", size_limit=exact - 1)


def test_a_letter_and_the_log_of_a_failed_handler_quote_nothing(
    engine: sa.Engine, store: TableKeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    emit(engine, ada())
    consumer = outbox.Consumer("failing", database=engine)

    @consumer.on(Registered)
    def fail(event: Registered, context: outbox.Context) -> None:
        raise ValueError(f"no letter for {event.name}")

    with caplog.at_level(logging.INFO):
        consume(consumer, stored(engine))
    (letter,) = letters(engine)
    assert letter.reason.startswith("ValueError: its text is not kept")
    assert is_token(orjson.loads(letter.content.data)["name"])
    told = [logging.Formatter().format(record) for record in caplog.records]
    assert any("in fail" in text for text in told)  # where it failed is told
    assert not any("Lovelace" in text for text in told)


class Kind(BaseModel):
    kind: Literal["a"]


class OtherKind(BaseModel):
    kind: Literal["b"]


def check_address(text: str) -> str:
    if "@" not in text:
        raise PydanticCustomError("address", "{text} is no address", {"text": text})
    return text


@outbox.event("tests.personal.contacts", key="id")
class Contacts(BaseModel):
    id: str
    numbers: Annotated[dict[str, Any] | None, outbox.Personal] = None
    email: Annotated[str | None, outbox.Personal] = None
    kind: Annotated[dict[str, str] | None, outbox.Personal] = None
    year: Annotated[Any, outbox.Personal] = None


@outbox.event("tests.personal.contacts", key="id", version=2)
class LaterContacts(BaseModel):
    id: str
    numbers: dict[str, int] | None = None
    email: Annotated[Annotated[str, AfterValidator(check_address)] | None, outbox.Personal] = None
    kind: Annotated[Kind | OtherKind | None, outbox.Personal, Field(discriminator="kind")] = None
    year: Annotated[int | None, outbox.Personal] = None


CONTACTS: dict[str, Any] = {
    "id": "1",
    "numbers": {"Charles Babbage": "none"},
    "email": NAME,
    "kind": {"kind": "countess"},
    "year": "1815 or so",
}
TOLD = ("numbers: Input should be a valid integer", "email: does not pass its validator", "year: ")
QUOTED = ("Babbage", "Lovelace", "countess", "1815")


def test_a_letter_of_data_that_does_not_fit_names_fields_and_rules_alone(
    engine: sa.Engine, store: TableKeyStore, caplog: pytest.LogCaptureFixture
) -> None:
    emit(engine, Contacts(**CONTACTS))
    consumer = outbox.Consumer("later", database=engine)
    consumer.on(LaterContacts)(lambda _event, _context: None)
    with caplog.at_level(logging.INFO):
        consume(consumer, [replace(each, version=2) for each in stored(engine)])
    (letter,) = letters(engine)
    assert letter.reason.startswith("MisfitError: its data does not fit tests.personal.contacts v2")
    assert all(text in letter.reason for text in TOLD)
    told = [letter.reason, *(logging.Formatter().format(record) for record in caplog.records)]
    assert not any(quoted in text for text in told for quoted in QUOTED)


def test_what_emit_refuses_is_told_by_fields_and_rules_alone(
    sqlite_engine: sa.Engine,
) -> None:
    wrong: Any = LaterContacts.model_construct(**CONTACTS | {"email": "x"})
    with sqlite_engine.begin() as connection, pytest.raises(InvalidEventError) as caught:
        outbox.emit(connection, wrong)
    assert not any(quoted in str(caught.value) for quoted in QUOTED)


class Away:
    """Finds no key: its database does not answer."""

    def find(self, _ids: Collection[str], /) -> Mapping[str, bytes]:
        raise DatabaseUnavailableError("the keys are away")


class Down:
    """A key store that finds keys in a broken one until it is told to."""

    def __init__(self, store: TableKeyStore, broken: Away | TableKeyStore, failures: int) -> None:
        self._store = store
        self._broken = broken
        self.failures = failures

    def provide(
        self, connection: sa.Connection, subjects: Collection[str], /
    ) -> Mapping[str, SubjectKey]:
        return self._store.provide(connection, subjects)

    def find(self, ids: Collection[str], /) -> Mapping[str, bytes]:
        self.failures -= 1
        return (self._store if self.failures < 0 else self._broken).find(ids)

    def forget(self, subject: str, /) -> int:
        return self._store.forget(subject)


@pytest.mark.parametrize(
    ("master_key", "message"),
    [(None, "the keys are away"), (OTHER_MASTER, "personal.former_master_keys: add it")],
)
def test_keys_that_cannot_be_had_now_are_an_outage_and_make_no_letter(
    engine: sa.Engine,
    store: TableKeyStore,
    caplog: pytest.LogCaptureFixture,
    master_key: str | None,
    message: str,
) -> None:
    emit(engine, ada())
    broken = Away() if master_key is None else TableKeyStore(outbox.MasterKeys(master_key), engine)
    down = Down(store, broken, 3 * QUICK.max_attempts)
    with using(down):
        (found,) = consumed(engine, stored(engine))
    assert found.name == NAME
    assert down.failures < 0
    assert letters(engine) == []
    told = [vars(each) for each in caplog.records if "keys of personal" in each.getMessage()]
    assert len(told) == 3 * QUICK.max_attempts
    assert message in told[0]["error"]


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "personal_customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(100))
    born: Mapped[date]
    city: Mapped[str] = mapped_column(sa.String(100))


CustomerChanged = outbox.track(
    Customer, fields=["name", "born", "city"], type="tests.customer", personal=["name", "born"]
)


def test_a_tracked_text_like_a_token_is_refused(sqlite_engine: sa.Engine) -> None:
    Base.metadata.create_all(sqlite_engine)
    token = f"outbox-personal:1:{'a' * 32}:{'A' * 41}"
    with Session(sqlite_engine) as session, session.begin():
        session.add(Customer(id=1, name=token, born=date(1815, 12, 10), city="London"))
        with pytest.raises(InvalidEventError, match="the form of an encrypted value"):
            session.flush()
        session.rollback()


def test_what_is_tracked_of_a_person_is_encrypted_and_forgotten(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Customer(id=1, name=NAME, born=date(1815, 12, 10), city="London"))
    with Session(engine) as session, session.begin():
        session.get_one(Customer, 1).name = "Ada King"
    log = stored(engine)
    assert not any(clear in each.data for each in log for clear in (b"Ada", b"1815"))
    consumer = outbox.Consumer("changes", database=engine)
    found: list[Any] = []
    consumer.on(CustomerChanged)(lambda event, _: found.append((event.before, event.after)))
    consume(consumer, log)
    assert found.pop(0) == (None, {"name": NAME, "born": date(1815, 12, 10), "city": "London"})
    assert found.pop(0) == ({"name": NAME}, {"name": "Ada King"})
    assert store.forget("1") == 1
    consumer.name = "changes later"
    consume(consumer, log)
    assert found == [
        (None, {"name": None, "born": None, "city": "London"}),
        ({"name": None}, {"name": None}),
    ]


class Forgetting(TableKeyStore):
    """A key store to which others come in between: they forget c-1 once it has read a key."""

    def __init__(self, store: TableKeyStore, keys: outbox.MasterKeys, engine: sa.Engine) -> None:
        super().__init__(keys, engine)
        self._store = store
        self.forgotten = 0

    def _unwrap(self, row: Any) -> bytes:
        secret = super()._unwrap(row)
        if not self.forgotten:
            self.forgotten += self._store.forget("c-1")
        return secret


def test_a_key_that_is_forgotten_while_keys_are_wrapped_anew_stays_forgotten(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    emit(engine, ada(), ada(customer_id="c-2"))
    wrapping = Forgetting(store, outbox.MasterKeys(OTHER_MASTER, [MASTER]), engine)
    assert (wrapping.rewrap(), wrapping.forgotten) == (1, 1)
    with using(wrapping):
        assert [event.name for event in consumed(engine, stored(engine))] == [REDACTED, NAME]


def test_many_keys_are_wrapped_anew_in_several_transactions(
    engine: sa.Engine, store: TableKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.keys.CHUNK", 2)
    emit(engine, *[ada(customer_id=f"c-{number}") for number in range(5)])
    both = TableKeyStore(outbox.MasterKeys(OTHER_MASTER, [MASTER]), engine)
    assert (both.rewrap(), both.rewrap()) == (5, 0)


def test_a_person_who_is_forgotten_while_a_writer_waits_for_their_key_gets_a_new_one(
    postgres_engine: sa.Engine,
) -> None:
    """Another writer's key is there when ours is made, and gone when it is read."""
    keys = outbox.MasterKeys(MASTER)
    store = TableKeyStore(keys, postgres_engine)
    statements: list[str] = []

    def come_between(_connection: Any, _cursor: Any, statement: str, *_: object) -> None:
        statements.append(statement.split(maxsplit=1)[0])
        if statements == ["SELECT", "INSERT"]:
            with postgres_engine.begin() as other:
                store.provide(other, ["c-1"])
        elif statements == ["SELECT", "INSERT", "SELECT"]:
            assert store.forget("c-1") == 1

    with postgres_engine.begin() as connection:
        sa.event.listen(connection, "before_cursor_execute", come_between)
        (found,) = store.provide(connection, ["c-1"]).values()
    assert store.find([found.id]) == {found.id: found.secret}


def test_keys_are_wrapped_anew_and_the_former_master_key_given_up(
    engine: sa.Engine, store: TableKeyStore
) -> None:
    emit(engine, ada(), ada(customer_id="c-2"))
    both = TableKeyStore(outbox.MasterKeys(OTHER_MASTER, [MASTER]), engine)
    assert both.rewrap() == 2
    assert both.rewrap() == 0
    with using(TableKeyStore(outbox.MasterKeys(OTHER_MASTER), engine)):
        assert [event.name for event in consumed(engine, stored(engine))] == [NAME, NAME]
    # The first step of the guide: a process that wraps by the old key, and knows the new one.
    with using(TableKeyStore(outbox.MasterKeys(MASTER, [OTHER_MASTER]), engine)):
        emit(engine, ada())
    with pytest.raises(ConfigurationError, match="wrapped by the master key"):
        emit(engine, ada())
