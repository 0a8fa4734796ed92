"""The JSON Schema of an event as it is written down, and its fields as people read them."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from typing import Annotated, Any

import jsonschema
import pytest
from pydantic import BaseModel, Field
from pydantic_core import core_schema
from typing_extensions import TypeAliasType

import outbox
from outbox.cli.output import json_text
from outbox.errors import EventDefinitionError
from outbox.event import catalogue
from outbox.schema.document import document, file_name, written
from outbox.schema.fields import fields


class Line(BaseModel):
    sku: str = Field(description="What is sold.")
    count: int = 1


class Puzzle:
    """What pydantic reads, and JSON Schema does not know."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.is_instance_schema(int)


class Tree(BaseModel):
    name: str
    below: list[Tree] = []


class Guest(BaseModel):
    friend_id: str
    name: Annotated[str, outbox.Personal(subject="friend_id")]


@outbox.event(
    "document.placed",
    version=3,
    key="order_id",
    owner="team-a",
    examples=[{"id": "o-1", "name": "Ada", "total": "1.50"}],
)
class Placed(BaseModel):
    """An order was placed.

    More of it.
    """

    order_id: str = Field(alias="id")
    name: Annotated[str, outbox.Personal]
    friend_id: str | None = Field(default=None, alias="friend")
    friend_name: Annotated[str | None, outbox.Personal(subject="friend_id")] = None
    guests: list[Guest] = []
    lines: list[Line] = []
    total: Decimal
    by_kind: dict[str, Line] = {}
    pair: tuple[int, str] = (1, "x")
    tree: Tree | None = None
    tags: frozenset[str] = frozenset({"b", "a", "c"})
    odd: dict[str, Any] = {"default": [3, 1], "type": "array", "uniqueItems": True, "items": 7}


def test_a_document_says_what_is_known_of_the_type() -> None:
    found = document(catalogue.of(Placed), "https://example.com/schemas/")
    assert {name: found[name] for name in list(found)[:8]} == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/schemas/document.placed.v3.json",
        "title": "Placed",
        "description": "An order was placed.",
        "x-type": "document.placed",
        "x-version": 3,
        "x-owner": "team-a",
        "x-key": "id",
    }
    assert document(catalogue.of(Placed))["$id"] == file_name("document.placed", 3)
    assert found["properties"]["name"]["x-personal"] == "id"
    assert found["properties"]["friend_name"]["x-personal"] == "friend"
    assert found["$defs"]["Guest"]["properties"]["name"]["x-personal"] == "friend_id"
    assert found["required"] == ["id", "name", "total"]
    assert found["properties"]["tags"]["default"] == ["a", "b", "c"]
    # Which is no schema, although it looks like one.
    assert found["properties"]["odd"]["default"]["default"] == [3, 1]


def test_what_is_emitted_and_the_examples_are_valid_under_the_document() -> None:
    event_type = catalogue.of(Placed)
    found = document(event_type)
    jsonschema.Draft202012Validator.check_schema(found)
    validator = jsonschema.Draft202012Validator(found)
    for example in event_type.examples:
        validator.validate(example)
    assert found["examples"][0]["tags"] == ["a", "b", "c"]


def test_a_document_is_the_same_text_in_every_process() -> None:
    code = (
        "from tests.unit.test_schema_document import *;"
        "print(written(document(catalogue.of(Placed))), end='')"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == written(document(catalogue.of(Placed)))


def test_the_fields_of_a_document_are_listed_nested_ones_included() -> None:
    found = {each.name: each for each in fields(document(catalogue.of(Placed)))}
    assert list(found) == [
        "id",
        "name",
        "friend",
        "friend_name",
        "guests",
        "guests.*.friend_id",
        "guests.*.name",
        "lines",
        "lines.*.sku",
        "lines.*.count",
        "total",
        "by_kind",
        "by_kind.*.sku",
        "by_kind.*.count",
        "pair",
        "tree",
        "tree.name",
        "tree.below",
        "tags",
        "odd",
    ]
    assert found["lines"].type == "array of object"
    assert found["lines.*.sku"].description == "What is sold."
    assert found["lines.*.count"].default == "1"
    assert found["friend"].type == "string or null"
    personal = [each.name for each in found.values() if each.is_personal]
    assert personal == ["name", "friend_name", "guests.*.name"]
    assert not found["friend"].is_required


Nest = TypeAliasType("Nest", "dict[str, Nest] | int")
Row = TypeAliasType("Row", "list[Row] | int")


@outbox.event("document.wide", examples=[{"nest": {"a": 1}, "row": [1], "wei": 10**20}])
class Wide(BaseModel):
    nest: Nest
    row: Row
    wei: int
    top: int = 10**20


@outbox.event("document.endless")
class Endless(BaseModel):
    limit: float = float("inf")
    below: Annotated[float, Field(lt=float("inf"))] = 1.0


def test_what_recurs_without_a_class_is_listed_once() -> None:
    names = [each.name for each in fields(document(catalogue.of(Wide)))]
    assert names == ["nest", "row", "wei", "top"]


@pytest.mark.parametrize("cls", [Wide, Endless])
def test_a_document_is_json_whatever_its_numbers_are(cls: type) -> None:
    found = document(catalogue.of(cls))
    assert json.loads(written(found), parse_constant=pytest.fail) == found
    assert json.loads(json_text(found)) == json.loads(json_text(found, indent=True)) == found


def test_a_number_without_json_is_no_default_and_no_bound() -> None:
    found = document(catalogue.of(Endless))["properties"]
    assert "default" not in found["limit"]
    assert "exclusiveMaximum" not in found["below"]


def test_a_field_that_json_schema_cannot_describe_is_an_error_at_import() -> None:
    with pytest.raises(EventDefinitionError, match="JSON Schema cannot describe"):

        @outbox.event("document.odd")
        class Odd(BaseModel):
            what: Annotated[str, Puzzle]
