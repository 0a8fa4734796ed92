"""What may be told of data that does not fit its class.

Pydantic names a place and a rule. Both may quote the data: a place by a key of a dict or by the tag
of a union, a rule by the words of an application's validator.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, get_args

from pydantic_core import core_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_OF_VALIDATORS: Final = {"value_error", "assertion_error"}
_OF_PYDANTIC: Final = {*get_args(core_schema.ErrorType)} - _OF_VALIDATORS
_QUOTING: Final = {
    "bytes_invalid_encoding": "is not encoded as its class says",
    "datetime_object_invalid": "is no date and time",
    "get_attribute_error": "has an attribute that cannot be read",
    "iteration_error": "cannot be read item by item",
    "mapping_type": "is no dict",
    "union_tag_invalid": "has a tag that no member of its union has",
    "url_parsing": "is no URL",
    "url_syntax_violation": "is no URL by the strict rules",
    "uuid_parsing": "is no UUID",
}
"""Errors of pydantic whose text may hold more than what the class says, and what is said then."""


def in_full(error: ValidationError) -> str:
    """Say which fields break which rule, in the words of whoever wrote the rule."""
    return _listed(error, lambda problem: problem["loc"], lambda problem: problem["msg"])


def without_values(error: ValidationError, names: Collection[str]) -> str:
    """Say the same, and nothing that stands in the data.

    `names` are those of the fields; a place is told as far as it is made of them.
    """

    def place(problem: ErrorDetails) -> Any:
        return takewhile(lambda each: isinstance(each, int) or each in names, problem["loc"])

    return _listed(error, place, _rule)


def _rule(problem: ErrorDetails) -> str:
    kind = problem["type"]
    if kind not in _OF_PYDANTIC:
        return "does not pass its validator"
    return _QUOTING.get(kind, problem["msg"])


def _listed(
    error: ValidationError,
    place: Callable[[ErrorDetails], Any],
    rule: Callable[[ErrorDetails], str],
) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    # A place that is cut may have several problems that are told alike.
    told = dict.fromkeys(
        f"{'.'.join(map(str, place(each))) or 'the event'}: {rule(each)}" for each in found
    )
    return "; ".join(told)
