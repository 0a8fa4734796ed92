"""Producers that write plain SQL: `type` and `data` are enough."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import uuid
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pymysql
import pytest
import sqlalchemy as sa

from outbox.codec import time_text
from outbox.envelope import Envelope
from outbox.table import outbox_event
from tests.emitting import Order, Shop, read
from tools.servers.postgres import find_binaries

TRIGGER = """
CREATE FUNCTION order_placed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO outbox_event (type, partition_key, data)
    VALUES (
        'shop.order.placed',
        NEW.id::text,
        convert_to(json_build_object('order', NEW.id, 'name', NEW.name)::text, 'UTF8')
    );
    RETURN NULL;
END $$;
CREATE TRIGGER order_placed AFTER INSERT ON shop_order FOR EACH ROW EXECUTE FUNCTION order_placed();
"""


def psql(engine: sa.Engine, script: str) -> None:
    dsn = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    program = str(find_binaries() / "psql")
    options = ["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", dsn]
    subprocess.run([program, *options], check=True, input=script, capture_output=True, text=True)


def plain(engine: sa.Engine, statement: str) -> None:
    """Run one statement as it stands, as any client of MariaDB would."""
    url = engine.url
    connection = pymysql.connect(
        host=url.host,
        port=url.port or 0,
        user=url.username,
        password=url.password or "",
        database=url.database,
    )
    with connection:
        connection.cursor().execute(statement)
        connection.commit()


def assert_defaults(envelope: Envelope, version: int = 4) -> None:
    assert envelope == Envelope(
        id=envelope.id,
        source=None,
        type="shop.order.placed",
        time=envelope.time,
        data='{"name": "Zoë"}'.encode(),
    )
    assert uuid.UUID(envelope.id).version == version
    assert abs(envelope.time - datetime.now(UTC)) < timedelta(minutes=1)


def test_psql_needs_to_give_type_and_data_alone(postgres_engine: sa.Engine) -> None:
    psql(
        postgres_engine,
        "INSERT INTO outbox_event (type, data)"
        """ VALUES ('shop.order.placed', convert_to('{"name": "Zoë"}', 'UTF8'));""",
    )
    [envelope] = read(postgres_engine)
    assert_defaults(envelope)


def test_psql_may_give_everything(postgres_engine: sa.Engine) -> None:
    psql(
        postgres_engine,
        r"""BEGIN;
        INSERT INTO outbox_event (id, source, type, version, subject, partition_key, topic, time,
            content_type, data, headers)
        VALUES ('0190a0b0-0000-7000-8000-000000000001', '/psql', 't', 2, 's', 'k', 'to',
            '2026-01-02 03:04:05+02', 'text/plain', '\x00ff',
            '{"correlationid": "c", "actor": "a", "own": "x", "number": 7, "none": null}');
        COMMIT;""",
    )
    assert read(postgres_engine) == [
        Envelope(
            id="0190a0b0-0000-7000-8000-000000000001",
            source="/psql",
            type="t",
            version=2,
            subject="s",
            partition_key="k",
            topic="to",
            time=datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC),
            content_type="text/plain",
            data=b"\x00\xff",
            correlation_id="c",
            actor="a",
            headers={"own": "x", "number": "7"},
        )
    ]


def test_a_trigger_emits_with_the_row_that_it_is_for(postgres_engine: sa.Engine) -> None:
    shop = Shop(postgres_engine)
    psql(postgres_engine, TRIGGER)
    with postgres_engine.begin() as connection:
        connection.execute(sa.insert(Order), [{"id": 1, "name": "Zoë"}, {"id": 2, "name": "x"}])
    with postgres_engine.connect() as connection:
        connection.execute(sa.insert(Order).values(id=3, name="rolled back"))
    found = read(shop.engine)
    assert [envelope.partition_key for envelope in found] == ["1", "2"]
    assert found[0].data.decode() == '{"order" : 1, "name" : "Zoë"}'


def test_sqlite_needs_type_and_data_alone(sqlite_engine: sa.Engine) -> None:
    with closing(sqlite3.connect(sqlite_engine.url.database or "")) as connection, connection:
        statement = "INSERT INTO outbox_event (type, data) VALUES (?, ?)"
        connection.execute(statement, ("shop.order.placed", '{"name": "Zoë"}'))
        connection.execute(statement, ("shop.order.placed", '{"name": "Zoë"}'.encode()))
    first, second = read(sqlite_engine)
    assert_defaults(first)
    assert_defaults(second)
    assert first.id != second.id


def test_mariadb_needs_type_and_data_alone(mariadb_engine: sa.Engine) -> None:
    plain(
        mariadb_engine,
        """INSERT INTO outbox_event (type, data) VALUES ('shop.order.placed', '{"name": "Zoë"}')""",
    )
    [envelope] = read(mariadb_engine)
    assert_defaults(envelope, version=1)


def test_mariadb_may_be_given_everything(mariadb_engine: sa.Engine) -> None:
    plain(
        mariadb_engine,
        """INSERT INTO outbox_event (id, source, type, version, subject, partition_key, topic, time,
            content_type, data, headers)
        VALUES ('0190A0B0-0000-7000-8000-000000000001', '/mariadb', 't', 2, 's', 'k', 'to',
            '2026-01-02 01:04:05.000006', 'text/plain', X'00ff',
            '{"correlationid": "c", "actor": "a", "own": "x", "number": 7, "none": null}')""",
    )
    assert read(mariadb_engine) == [
        Envelope(
            id="0190A0B0-0000-7000-8000-000000000001",
            source="/mariadb",
            type="t",
            version=2,
            subject="s",
            partition_key="k",
            topic="to",
            time=datetime(2026, 1, 2, 1, 4, 5, 6, tzinfo=UTC),
            content_type="text/plain",
            data=b"\x00\xff",
            correlation_id="c",
            actor="a",
            headers={"own": "x", "number": "7"},
        )
    ]


def test_a_trigger_of_mariadb_emits_with_the_row_that_it_is_for(mariadb_engine: sa.Engine) -> None:
    Shop(mariadb_engine)
    plain(
        mariadb_engine,
        "CREATE TRIGGER order_placed AFTER INSERT ON shop_order FOR EACH ROW"
        " INSERT INTO outbox_event (type, partition_key, data)"
        " VALUES ('shop.order.placed', NEW.id, JSON_OBJECT('order', NEW.id, 'name', NEW.name))",
    )
    with mariadb_engine.begin() as connection:
        connection.execute(sa.insert(Order), [{"id": 1, "name": "Zoë"}, {"id": 2, "name": "x"}])
    with mariadb_engine.connect() as connection:
        connection.execute(sa.insert(Order).values(id=3, name="rolled back"))
    found = read(mariadb_engine)
    assert [envelope.partition_key for envelope in found] == ["1", "2"]
    assert found[0].data.decode() == '{"order": 1, "name": "Zoë"}'


def test_text_and_data_of_any_length_arrive_on_mariadb(mariadb_engine: sa.Engine) -> None:
    text = "é" * 100_000
    columns = {"type": "t", "subject": text, "topic": text, "data": text.encode() * 3}
    with mariadb_engine.begin() as connection:
        connection.execute(sa.insert(outbox_event).values(headers={"x": text}, **columns))
    [envelope] = read(mariadb_engine)
    assert (envelope.subject, envelope.topic) == (text, text)
    assert (envelope.data, envelope.headers) == (text.encode() * 3, {"x": text})


def test_text_that_differs_in_case_or_by_a_blank_differs_on_mariadb(
    mariadb_engine: sa.Engine,
) -> None:
    with mariadb_engine.begin() as connection:
        for text in ("a", "A", "a ", "á"):
            connection.execute(sa.insert(outbox_event).values(type=text, data=b""))
        query = sa.select(outbox_event.c.type)
        for text in ("a", "A", "a ", "á"):
            assert connection.scalars(query.where(outbox_event.c.type == text)).all() == [text]


@pytest.mark.parametrize(
    ("moment", "read_as"),
    [
        ("2026-01-02 03:04:05", "2026-01-02T03:04:05+00:00"),
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00"),
        ("2026-01-02T03:04:05z", "2026-01-02T03:04:05+00:00"),
        ("2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05.123456+00:00"),
        ("2026-01-02 03:04:05.5+05:30", "2026-01-02T03:04:05.500000+05:30"),
        ("2026-01-02 03:04", "2026-01-02T03:04:00+00:00"),
        ("2026-01-02", "2026-01-02T00:00:00+00:00"),
        ("2024-02-29", "2024-02-29T00:00:00+00:00"),
        ("0001-01-02T00:00:00+14:00", "0001-01-02T00:00:00+14:00"),
        ("9999-12-30 23:59:59.999999-14:00", "9999-12-30T23:59:59.999999-14:00"),
    ],
)
def test_sqlite_takes_times_as_functions_and_programs_write_them(
    sqlite_engine: sa.Engine, moment: str, read_as: str
) -> None:
    with sqlite_engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO outbox_event (type, data, time) VALUES ('t', '', ?)", (moment,)
        )
    [envelope] = read(sqlite_engine)
    assert envelope.time.isoformat() == read_as
    assert time_text(envelope.time).endswith("Z")


@pytest.mark.parametrize(
    "columns",
    [
        *(
            {"time": f"'{moment}'"}
            for moment in (
                "2026-01-01T24:00:00Z",
                "2026-02-30T12:00:00Z",
                "2026-02-29",
                "0000-01-01T00:00:00Z",
                "0001-01-01T00:00:00+14:00",
                "0300-02-29",
                "9999-12-31T23:59:59-14:00",
                "2026-01-01T12:00:00   +05:00",
                "2026-01-01\t12:00:00Z",
                "2026-01-01T",
                "now",
            )
        ),
        {"time": "'2026-01-01T12:00:00Z' || char(0) || 'x'"},
        {"time": "CAST('2026-01-01' AS BLOB)"},
        {"time": "2461042.5"},
        *(
            {column: "CAST('x' AS BLOB)"}
            for column in (
                "id",
                "source",
                "type",
                "subject",
                "partition_key",
                "topic",
                "content_type",
            )
        ),
        {"headers": "CAST('{}' AS BLOB)"},
        {"headers": "'{}' || char(0) || 'x'"},
    ],
)
def test_sqlite_refuses_what_it_would_take_for_a_time_or_for_text(
    sqlite_engine: sa.Engine, columns: dict[str, str]
) -> None:
    row = {"type": "'t'", "data": "''", **columns}
    statement = f"INSERT INTO outbox_event ({', '.join(row)}) VALUES ({', '.join(row.values())})"
    with sqlite_engine.connect() as connection, pytest.raises(sa.exc.DBAPIError):
        connection.exec_driver_sql(statement)
    assert read(sqlite_engine) == []


@pytest.mark.parametrize(
    ("data", "read_as"),
    [("CAST(x'ff00' AS TEXT)", b"\xff\0"), ("x'ff00'", b"\xff\0"), ("7", b"7"), ("1.5", b"1.5")],
)
def test_data_is_what_bytes_sqlite_has(sqlite_engine: sa.Engine, data: str, read_as: bytes) -> None:
    with sqlite_engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO outbox_event (type, data) VALUES ('t', {data})")
    [envelope] = read(sqlite_engine)
    assert envelope.data == read_as


@pytest.mark.parametrize(
    "columns",
    [
        {"type": "''"},
        {"type": "NULL"},
        {"data": "NULL"},
        {"version": "0"},
        {"version": "'x'"},
        {"time": "'infinity'"},
        {"time": "'12:00'"},
        {"partition_key": f"'{'é' * 501}'"},
        {"source": f"'{'x' * 1_001}'"},
        {"headers": "'[]'"},
        {"headers": "'no json'"},
    ],
)
@pytest.mark.parametrize("database", ["postgres_engine", "sqlite_engine", "mariadb_engine"])
def test_rows_that_no_relay_could_read_are_refused(
    request: pytest.FixtureRequest, database: str, columns: dict[str, str]
) -> None:
    engine: sa.Engine = request.getfixturevalue(database)
    row = {"type": "'t'", "data": "''", **columns}
    statement = f"INSERT INTO outbox_event ({', '.join(row)}) VALUES ({', '.join(row.values())})"
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError):
        connection.exec_driver_sql(statement)
    assert read(engine) == []


@pytest.mark.parametrize("mode", ["STRICT_ALL_TABLES", ""])
@pytest.mark.parametrize(
    "columns",
    [
        {"id": "no uuid"},
        {"id": "0190a0b0-0000-7000-8000-000000000001, and more of it than fits"},
        {"time": "0000-00-00 00:00:00"},
        {"time": "2026-02-31 00:00:00"},
        {"type": ""},
        {"version": "zero"},
        {"headers": r'{"a": "\q"}'},
        {"headers": r'{"a": "\u0000"}'},
        {"headers": '{"a": "\n"}'},
        {"headers": '{"a": 1e999}'},
        {"headers": '{"a": 5.}'},
        {"headers": '{"a": -}'},
        {"headers": '{"a": 1} 2'},
    ],
)
def test_mariadb_refuses_them_whether_or_not_the_session_is_strict(
    mariadb_engine: sa.Engine, columns: dict[str, str], mode: str
) -> None:
    row = {"type": "t", "data": "", **columns}
    statement = f"INSERT INTO outbox_event ({', '.join(row)}) VALUES (:{', :'.join(row)})"
    with mariadb_engine.connect() as connection:
        connection.execute(sa.text("SET sql_mode = :mode"), {"mode": mode})
        with pytest.raises(sa.exc.DBAPIError):
            connection.execute(sa.text(statement), row)
        connection.invalidate()
    assert read(mariadb_engine) == []


@pytest.mark.parametrize(
    "text",
    [
        r'{"a": "\\q", "b\"": "\u00e9\ud83d\ude00\n\/"}',
        '{"a": -1.5e-3, "b": 0, "c": [true, null, {"d": "5. -"}]}',
        '\n{ "a" : "" }\t',
    ],
)
def test_mariadb_takes_headers_that_are_json(mariadb_engine: sa.Engine, text: str) -> None:
    with mariadb_engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO outbox_event (type, data, headers) VALUES ('t', '', :text)"),
            {"text": text},
        )
        stored = connection.scalar(sa.select(outbox_event.c.headers))
    assert stored == json.loads(text)
