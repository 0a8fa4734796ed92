"""`outbox schema`, as its user has it."""

from __future__ import annotations

import errno
import json
import linecache
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jsonschema
import pytest

from outbox.event import catalogue
from outbox.upcasters import upcasters
from tests.acceptance.cli import Program

EVENTS = '''
from __future__ import annotations
from typing import Annotated
import outbox
from pydantic import BaseModel

class Line(BaseModel):
    sku: str

@outbox.event(
    "shop.order.placed", key="order_id", owner="checkout",
    examples=[{"order_id": "o-1", "customer": "Ada", "total_cents": 5}],
)
class OrderPlaced(BaseModel):
    """An order was placed."""
    order_id: str
    customer: Annotated[str, outbox.Personal]
    total_cents: int
    lines: list[Line] = []

@outbox.event("shop.order.cancelled")
class OrderCancelled(BaseModel):
    order_id: str
'''
UPCASTER = """
@outbox.upcast(OrderPlaced, from_version=1)
def lift(data):
    return data
"""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    (tmp_path / "shop").mkdir()
    made = Program(tmp_path)
    write(made, EVENTS)
    return made


def write(program: Program, code: str) -> None:
    (program.folder / "shop" / "events.py").write_text(code)


def schema(program: Program, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it in this process, which is quicker, as if nothing had been imported before."""
    command, *rest = arguments
    known = {name for name in sys.modules if name.partition(".")[0] == "shop"}
    without = {name: module for name, module in sys.modules.items() if name not in known}
    linecache.clearcache()
    with (
        patch.dict(sys.modules, without, clear=True),
        patch.object(catalogue, "_by_class", {}),
        patch.object(catalogue, "_by_name", {}),
        patch.object(upcasters, "_steps", {}),
        patch.object(sys, "dont_write_bytecode", new=True),
    ):
        return program.call("schema", command, "--app", "shop.events", *rest)


def changed(program: Program, old: str, new: str) -> None:
    assert old in EVENTS
    write(program, EVENTS.replace(old, new))


def test_it_is_a_program(program: Program) -> None:
    done = program.run("schema", "list", "--app", "shop.events")
    assert (done.returncode, "shop.order.placed" in done.stdout) == (0, True), done.stderr


def test_the_catalogue_is_listed_and_shown(program: Program) -> None:
    listed = schema(program, "list")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[:2] for line in listed.stdout.splitlines()] == [
        ["type", "version"],
        ["shop.order.cancelled", "1"],
        ["shop.order.placed", "1"],
    ]
    lines = schema(program, "list", "--json", "--type", "*.placed").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "type": "shop.order.placed",
            "version": 1,
            "class": "shop.events.OrderPlaced",
            "key": "order_id",
            "owner": "checkout",
            "description": "An order was placed.",
            "personal": ["/customer"],
            "examples": [{"order_id": "o-1", "customer": "Ada", "total_cents": 5, "lines": []}],
        }
    ]
    shown = schema(program, "show", "shop.order.placed").stdout
    assert "lines.*.sku  string" in shown
    assert "of order_id" in next(line for line in shown.splitlines() if "customer" in line)
    assert '"customer": "Ada"' in shown
    document = json.loads(schema(program, "show", "shop.order.placed", "--json").stdout)
    jsonschema.Draft202012Validator.check_schema(document)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "shop.order.gone"), 1, "there is shop.order.cancelled, shop.order.placed"),
        (("show", "shop.order.placed", "--version", "2"), 1, "there is v1"),
        (("check",), 2, "'--against'"),
        (("check", "--against", "nothing"), 2, "neither a folder nor a revision of git"),
        (("check", "--against", "shop"), 2, "there is no schema in 'shop'"),
        (("list", "--app", "shop.none"), 2, "there is no module 'shop.none'"),
        (("list", "--app", "shop.events:OrderPlaced"), 2, "is no module"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    program: Program, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = schema(program, *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)
    assert message in done.stderr


def test_a_declaration_that_cannot_work_is_told_with_both_places(program: Program) -> None:
    again = '@outbox.event("shop.order.placed")\nclass Again(BaseModel):\n    order_id: str\n'
    write(program, EVENTS + again)
    done = schema(program, "list")
    assert done.returncode == 2
    assert "shop.events.OrderPlaced (" in done.stderr
    assert "shop.events.Again (" in done.stderr
    assert "events.py:" in done.stderr


def test_a_gap_between_upcasters_is_told(program: Program) -> None:
    write(program, EVENTS.replace('placed", ', 'placed", version=3, ') + UPCASTER)
    done = schema(program, "list")
    assert done.returncode == 2
    assert "none from version 2" in done.stderr


def test_an_application_without_events_is_told(program: Program) -> None:
    write(program, "")
    done = schema(program, "list")
    assert (done.returncode, "declares no event" in done.stderr) == (2, True)


def test_schemas_are_exported_once_and_those_of_other_versions_stay(program: Program) -> None:
    first = schema(program, "export", "--to", "out/schemas")
    assert first.returncode == 0, first.stderr
    folder = program.folder / "out" / "schemas"
    names = ["shop.order.cancelled.v1.json", "shop.order.placed.v1.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert "2 schemas in out/schemas, 2 of them changed" in first.stdout
    write(program, EVENTS.replace('placed", ', 'placed", version=2, '))
    second = schema(program, "export", "--to", "out/schemas").stdout
    assert "2 schemas in out/schemas, 1 of them changed" in second
    assert len(list(folder.iterdir())) == 3


def test_a_change_that_breaks_nobody_passes(program: Program) -> None:
    schema(program, "export", "--to", "schemas")
    assert schema(program, "check", "--against", "schemas").returncode == 0
    changed(program, "    sku: str", "    sku: str\n    count: int = 1")
    done = schema(program, "check", "--against", "schemas")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["unchanged", "shop.order.cancelled", "v1", "compatible",
                                   "shop.order.placed", "v1"]  # fmt: skip


def test_a_change_that_breaks_fails_and_says_where_and_what_to_do(program: Program) -> None:
    schema(program, "export", "--to", "schemas")
    changed(program, "    sku: str", "    sku: str\n    count: int")
    done = schema(program, "check", "--against", "schemas")
    assert done.returncode == 1
    assert "  /lines/*/count: newly required: " in done.stdout
    assert "→ give it a default" in done.stdout
    assert "version 2, and write @outbox.upcast(OrderPlaced, from_version=1)" in done.stdout
    assert done.stderr.startswith("error: 1 version of events changed")
    forward = schema(program, "check", "--against", "schemas", "--mode", "forward")
    assert forward.returncode == 0
    document = json.loads(schema(program, "check", "--against", "schemas", "--json").stdout)
    assert document["is_compatible"] is False
    (finding,) = document["verdicts"][1]["findings"]
    assert (finding["field"], finding["breaks"]) == ("/lines/*/count", ["backward"])


def test_a_version_that_went_needs_an_upcaster(program: Program) -> None:
    schema(program, "export", "--to", "schemas")
    later = EVENTS.replace('placed", ', 'placed", version=2, ')
    write(program, later)
    done = schema(program, "check", "--against", "schemas")
    assert (done.returncode, "it has no class any more" in done.stdout) == (1, True)
    write(program, later + UPCASTER)
    done = schema(program, "check", "--against", "schemas")
    assert done.returncode == 0, done.stdout
    assert "gone        shop.order.placed v1" in done.stdout
    assert "new         shop.order.placed v2" in done.stdout


def test_a_verdict_is_not_lost_with_its_reader(program: Program) -> None:
    schema(program, "export", "--to", "schemas")
    changed(program, "cancelled", "called_off")
    check = program.start("schema", "check", "--app", "shop.events", "--against", "schemas")
    assert check.stdout is not None
    assert check.stderr is not None
    check.stdout.close()
    told = check.stderr.read()
    check.stderr.close()
    assert check.wait(60) in {1, 141}, told
    assert "Traceback" not in told


def test_readers_go_before_a_new_version_of_a_known_type_and_that_is_said(
    program: Program,
) -> None:
    schema(program, "export", "--to", "schemas")
    packed = '@outbox.event("shop.order.packed")\nclass OrderPacked(Line): ...\n'
    write(program, EVENTS.replace('placed", ', 'placed", version=2, ') + UPCASTER + packed)
    done = schema(program, "check", "--against", "schemas")
    assert done.returncode == 0
    assert (
        "new         shop.order.placed v2\n"
        "  deploy its readers before its writers: those that know v1 set it aside\n"
    ) in done.stdout
    assert done.stdout.count("deploy its readers") == 1  # a new type has none of before
    document = json.loads(schema(program, "check", "--against", "schemas", "--json").stdout)
    assert document["is_compatible"] is True
    assert "v1" in document["verdicts"][-1]["note"]


def test_what_was_committed_is_compared_from_any_folder(program: Program) -> None:
    schema(program, "export", "--to", "schemas")
    git(program, "init", "--quiet")
    git(program, "add", ".")
    git(program, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "first")
    write(program, EVENTS.replace("cents: int", "cents: str").replace('cents": 5', 'cents": "5"'))
    schema(program, "export", "--to", "schemas")
    inside = Program(program.folder / "shop")
    (inside.folder / "shop").symlink_to("../shop")
    for where, against in [
        (program, "HEAD"),
        (program, "HEAD:schemas"),
        (inside, "HEAD:schemas"),
        (inside, "HEAD:../schemas"),
    ]:
        done = schema(where, "check", "--against", against)
        assert (done.returncode, "/total_cents: type changed" in done.stdout) == (1, True), against
    done = schema(program, "check", "--against", "HEAD:other")
    assert (done.returncode, "no folder 'other' in the revision" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("{}", "is no schema of an event type"),
        ('{"x-type": "shop.order.placed", "x-version": 1, "type": "text"}', "no JSON Schema"),
    ],
)
def test_a_file_that_is_no_schema_is_named(program: Program, content: str, message: str) -> None:
    (program.folder / "schemas").mkdir()
    (program.folder / "schemas" / "x.json").write_text(content)
    done = schema(program, "check", "--against", "schemas")
    assert done.returncode == 2
    assert "schemas/x.json" in done.stderr
    assert message in done.stderr


def test_what_cannot_be_written_is_told(program: Program) -> None:
    (program.folder / "file").write_text("")
    done = schema(program, "export", "--to", "file/schemas")
    assert (done.returncode, "file/schemas cannot be made" in done.stderr) == (1, True)
    (program.folder / "schemas" / "shop.order.placed.v1.json").mkdir(parents=True)
    done = schema(program, "export", "--to", "schemas")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "the schema of shop.order.placed v1 cannot be written to schemas/shop" in done.stderr
    with patch.object(Path, "write_bytes", side_effect=OSError(errno.ENAMETOOLONG, "too long")):
        done = schema(program, "export", "--to", "other")
    assert "the schema of shop.order.cancelled v1 cannot be written to other/shop" in done.stderr
    assert "called as the type is: give that a shorter name" in done.stderr


def git(program: Program, *arguments: str) -> None:
    done: Any = subprocess.run(["git", *arguments], cwd=program.folder, check=True)  # noqa: S607
    assert done.returncode == 0
