from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from outbox.errors import ConfigurationError, RecordRefusedError
from outbox.testing import envelope
from outbox.transports.s3.keys import DEFAULT, KeyTemplate

WHEN = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_the_default_names_type_day_sequence_and_id() -> None:
    event = envelope("t", time=WHEN, id="i-1", sequence=4711, type="shop.order.placed")
    key = KeyTemplate(DEFAULT + ".json").key(event, "t")
    assert key == "shop.order.placed/2026/01/31/00000000000000004711-i-1.json"


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("{topic}/{id}", "t/i-1"),
        ("{type_prefix}/v{version}/{id}", "suite.case/v1/i-1"),
        ("{subject}/{id}", "ord%C3%A9r/1%20%3F/i-1"),
        ("{partition_key}/{time:%H}/{sequence:05d}", "k/12/00007"),
        ("{{{id}}}", "{i-1}"),
    ],
)
def test_a_template_is_filled(template: str, key: str) -> None:
    event = envelope("t", time=WHEN, id="i-1", sequence=7, subject="ordér/1 ?")
    assert KeyTemplate(template).key(event, "t") == key


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{type}", "overwrite"),
        ("{id}/{nothing}", "none of"),
        ("{id!r}", "none of"),
        ("{id:>20}", "no format"),
        ("{sequence:%Y}", "sequence"),
        ("{id", "no template"),
        ("_log/{id}", "_log/"),
        ("/{id}", "begin with /"),
    ],
)
def test_a_template_that_cannot_work_is_refused(template: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        KeyTemplate(template)


@pytest.mark.parametrize(
    ("template", "changed", "why"),
    [
        ("{subject}/{id}", {}, "no subject"),
        ("{id}", {"id": "x" * 1_000 + "é" * 10}, "984 bytes"),
        ("{type}/{id}", {"type": "_log"}, "_log/"),
        ("{type}/{id}", {"type": ".."}, "'..'"),
        ("{sequence}", {}, "sequence"),
    ],
)
def test_an_event_without_a_key_is_refused(
    template: str, changed: dict[str, Any], why: str
) -> None:
    with pytest.raises(RecordRefusedError, match=why):
        KeyTemplate(template).key(envelope("t", **changed), "t")


def test_a_folder_is_all_but_id_and_sequence() -> None:
    template = KeyTemplate(DEFAULT)
    one, two = (envelope("t", time=WHEN, sequence=n) for n in (1, 2))
    assert template.folder(one, "t") == template.folder(two, "t")
    other = envelope("t", time=WHEN, type="suite.case.other")
    assert template.folder(one, "t") != template.folder(other, "t")
