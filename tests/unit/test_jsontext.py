"""Every JSON object that a database takes is read, somehow."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.jsontext import read_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters()), VALUES))
def test_whatever_is_read_can_be_written(stored: dict[str, object]) -> None:
    text = json.dumps(stored, allow_nan=False) if _is_finite(stored) else "{}"
    orjson.dumps(read_object(text))
    orjson.dumps(read_object(text.encode()))


def _is_finite(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ('{"a": "b", "n": 5, "f": 0.5, "x": null}', {"a": "b", "n": 5, "f": 0.5, "x": None}),
        ('{"a": 1e999, "b": [-1e999, 2.5]}', {"a": "1e999", "b": ["-1e999", 2.5]}),
        ('{"a": "\\ud800", "b": 7}', {"a": "?", "b": 7}),
        ('{"\\udc00": {"\\ud83d\\ude00": "\\ude00é"}}', {"?": {"😀": "?é"}}),
        (f'{{"a": 1e999, "b": {"9" * 5_000}}}', {"a": "1e999", "b": "9" * 5_000}),
    ],
)
def test_what_the_parser_refuses_is_read_as_well_as_it_can_be(
    stored: str, expected: dict[str, object]
) -> None:
    assert read_object(stored) == expected


def test_what_is_too_deep_stands_as_it_is() -> None:
    stored = f'{{"a": {"[" * 5_000}{"]" * 5_000}}}'
    assert read_object(stored.encode()) == {"unreadable": stored}
