"""What makes an AsyncAPI document right: its specification's schema, and what that cannot say."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft7Validator
from referencing import Registry
from referencing.jsonschema import DRAFT7

FILE = Path(__file__).parent / "asyncapi" / "3.0.0.json"
PLACE = "urn:document"


@cache
def specification() -> Draft7Validator:
    return Draft7Validator(json.loads(FILE.read_text()))


def problems(document: Any) -> list[str]:
    """Everything that is wrong with a document, a line each."""
    found = [
        f"{error.json_path}: {error.message[:300]}"
        for error in specification().iter_errors(document)
    ]
    found += [f"{each} leads nowhere" for each in references(document) if not leads(document, each)]
    for name, operation in document.get("operations", {}).items():
        channel = operation["channel"]["$ref"]
        found += [
            f"{name}: {each['$ref']} is no message of {channel}"
            for each in operation["messages"]
            if not each["$ref"].startswith(f"{channel}/messages/")
        ]
    return found


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [found for each in value for found in references(each)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [found for each in value.values() for found in references(each)]


def leads(document: Any, reference: str) -> bool:
    return resolve(document, reference) is not None


def resolve(document: Any, reference: str) -> Any:
    """What a reference within a document leads to; None where it leads nowhere."""
    start, *tokens = unquote(reference).split("/")
    found = document if start == "#" else None
    for token in tokens:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal():
            found = found[int(name)] if int(name) < len(found) else None
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found


def payload(document: Any, name: str) -> Draft7Validator:
    """Reads the schema of a component as a tool does: within its document, as draft 07."""
    registry: Registry[Any] = Registry().with_resource(PLACE, DRAFT7.create_resource(document))
    return Draft7Validator({"$ref": f"{PLACE}#/components/schemas/{name}"}, registry=registry)
