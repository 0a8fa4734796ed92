"""Logs for machines and for people."""

from __future__ import annotations

import io
import json
import logging
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from outbox import log

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in log.ROOTS]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def broken() -> None:
    raise RuntimeError("broken")


def test_json_has_one_object_a_line_with_the_facts() -> None:
    stream = io.StringIO()
    log.configure("json", stream=stream)
    logging.getLogger("relay.route").warning(
        "route stands still", extra={"route": "kafka", "wait_seconds": 0.5, "position": object}
    )
    logging.getLogger("outbox").info("started")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert datetime.fromisoformat(first.pop("ts")).tzinfo is not None
    assert first.pop("position") == "<class 'object'>"
    assert first == {
        "level": "warning",
        "event": "route stands still",
        "route": "kafka",
        "wait_seconds": 0.5,
    }
    assert second["event"] == "started"


def test_json_has_the_traceback_in_its_line() -> None:
    stream = io.StringIO()
    log.configure("json", stream=stream)
    try:
        broken()
    except RuntimeError:
        logging.getLogger("relay").exception("term broke off")
    (line,) = stream.getvalue().splitlines()
    assert "RuntimeError: broken" in json.loads(line)["traceback"]


def test_text_is_one_readable_line_without_colour_in_a_file() -> None:
    stream = io.StringIO()
    log.configure(stream=stream)
    logging.getLogger("relay").error("route ended", extra={"route": "k", "error": "no topic\nx"})
    line = stream.getvalue()
    assert line.endswith("error   route ended  route=k error='no topic\\nx'\n")
    assert "\x1b" not in line


def test_text_is_coloured_on_a_terminal() -> None:
    stream = Terminal()
    log.configure(stream=stream)
    logging.getLogger("relay").error("route ended", extra={"route": "k"})
    logging.getLogger("relay").info("route started")
    assert "\x1b[31merror" in stream.getvalue()


def test_text_shows_a_traceback_below_the_line() -> None:
    stream = io.StringIO()
    log.configure(stream=stream)
    try:
        broken()
    except RuntimeError:
        logging.getLogger("relay").exception("term broke off")
    assert stream.getvalue().endswith("RuntimeError: broken\n")


def test_details_show_only_when_asked_for() -> None:
    stream = io.StringIO()
    log.configure(stream=stream)
    logging.getLogger("relay").debug("page read")
    log.configure(stream=stream, level=logging.DEBUG)
    logging.getLogger("relay").debug("page settled")
    assert [line.split(" debug   ")[1] for line in stream.getvalue().splitlines()] == [
        "page settled"
    ]
