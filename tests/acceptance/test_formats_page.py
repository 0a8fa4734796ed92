"""What docs/guide/formats.md shows is run: its settings, its schema and its command."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import pytest

from outbox.errors import RecordRefusedError
from outbox.formats.convert import Converter
from outbox.formats.registry import Registry
from outbox.formats.unpack import Unpacker
from outbox.rows import Rows, to_row
from outbox.settings import load
from outbox.testing import envelope
from tests.acceptance.cli import Program
from tests.pages import block, page

if TYPE_CHECKING:
    from pathlib import Path

PAGE = "guide/formats.md"
TYPE = "shop.order.placed"


@pytest.fixture
def program(tmp_path: Path, registry_url: str) -> Program:
    """The program in a folder with the page's settings and its schema."""
    settings = block(page(PAGE), "toml", "[routes.kafka.schemas]")
    settings = settings.replace('"http://localhost:8081"', f'"{registry_url}"')
    head = 'database_url = "sqlite:///outbox.db"\n'
    (tmp_path / "outbox.toml").write_text(head + settings)
    (tmp_path / "schemas").mkdir()
    schema = block(page(PAGE), "json", '"shop.order"')
    (tmp_path / "schemas" / f"{TYPE}.v1.avsc").write_text(schema)
    (tmp_path / "schemas" / "README.md").write_text("other files are left alone")
    return Program(tmp_path)


def schema(program: Program, name: str, text: str) -> str:
    (program.folder / name).write_text(text)
    return name


def test_the_page_shows_how_a_schema_is_registered_and_events_written_by_it(
    program: Program,
) -> None:
    done = program.call("registry", "register", "schemas/")
    assert done.returncode == 0, done.stderr
    title, row = done.stdout.splitlines()
    assert title.split() == ["type", "version", "subject", "schema", "id"]
    assert row.split()[:3] == [TYPE, "1", TYPE]
    again = json.loads(program.call("registry", "register", "schemas", "--json").stdout)
    (facts,) = again["schemas"]
    assert (facts["state"], facts["subject_version"]) == ("was there", 1)
    schemas = load(program.folder / "outbox.toml").routes["kafka"].schemas
    assert schemas is not None
    registry = Registry("here", schemas, 10.0)
    try:
        data = b'{"order_id":"o-1","total_cents":1999,"placed_at":"2026-01-02T03:04:05Z"}'
        good = envelope(None, data=data, type=TYPE)
        bad = envelope(None, data=data.replace(b"1999", b'"many"'), type=TYPE)
        rows, errors = Converter(schemas, registry, "{type_prefix}", 60).convert(
            Rows([to_row(good), to_row(bad)])
        )
        assert rows[0].data.startswith(b"\0")
        back = json.loads(Unpacker(registry).unpack(rows[0]).data)
        assert (back["order_id"], back["total_cents"]) == ("o-1", 1999)
        assert isinstance(errors[1], RecordRefusedError)
        text = " ".join(page(PAGE).split())
        assert str(errors[1]) in text
    finally:
        registry.close()


def test_versions_are_registered_in_their_order(program: Program) -> None:
    name = f"tests.order.t{uuid.uuid4().hex}"

    def fields(*names: str) -> str:
        found = [{"name": each, "type": "string", "default": ""} for each in names]
        return json.dumps({"type": "record", "name": "x", "fields": found})

    def register(version: int, *names: str) -> tuple[int, str]:
        file = schema(program, f"{name}.v{version}.avsc", fields(*names))
        done = program.call("registry", "register", file)
        return done.returncode, done.stderr

    assert "next version of the subject" in register(2, "a")[1]
    assert register(1, "a")[0] == 0
    assert "the next version of the subject" in register(3, "a", "b")[1]
    assert register(2, "a", "b")[0] == 0
    assert "version 2 of the subject" in register(3, "a", "b")[1]
    assert f"version 1 of the subject '{name}' is another schema" in register(1, "c")[1]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nothing"], "there is no file nothing"),
        (["outbox.toml"], "does not say what it is"),
        (["empty"], "no file is called for instance"),
        (["a.b.v1.json"], "writes none of a.b in the format of its file"),
        (["a.b.v1.avsc"], "a.b.v1.avsc is no Avro schema"),
        (["a.c.v1.avsc"], "a.c.v1.avsc is no text in UTF-8"),
        (["schemas", "--route", "else"], "there is no route 'else'"),
    ],
)
def test_what_cannot_be_registered_is_told(
    program: Program, arguments: list[str], why: str
) -> None:
    (program.folder / "empty").mkdir()
    schema(program, "a.b.v1.json", "{}")
    schema(program, "a.b.v1.avsc", "{")
    (program.folder / "a.c.v1.avsc").write_bytes(b"\xff{}")
    done = program.call("registry", "register", *arguments)
    assert done.returncode in {1, 2}
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_asks_the_registry(program: Program, registry_url: str) -> None:
    settings = program.folder / "outbox.toml"
    text = settings.read_text().replace('"kafka"', '"memory"')
    text = text.replace('bootstrap_servers = "localhost:9092"\n', "")
    settings.write_text(text)
    assert "ok        route kafka" in program.call("doctor").stdout
    settings.write_text(text.replace(registry_url, "http://127.0.0.1:1"))
    found = program.call("doctor").stdout
    assert "failed    route kafka: the schema registry http://127.0.0.1:1 does not answer" in found


def test_a_registry_that_is_away_is_told(program: Program, registry_url: str) -> None:
    settings = program.folder / "outbox.toml"
    settings.write_text(settings.read_text().replace(registry_url, "http://127.0.0.1:1"))
    done = program.call("registry", "register", "schemas")
    assert (done.returncode, "does not answer" in done.stderr) == (1, True)


def test_a_route_without_schemas_is_told(program: Program) -> None:
    settings = program.folder / "outbox.toml"
    settings.write_text(settings.read_text().partition("[routes.kafka.schemas]")[0])
    done = program.call("registry", "register", "schemas")
    assert (done.returncode, "no route has schemas" in done.stderr) == (2, True)
    done = program.call("registry", "register", "schemas", "--route", "kafka")
    assert "the route kafka has no schemas" in done.stderr
