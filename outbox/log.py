"""Structured logs: a constant text says what happened, the facts beside it say to whom.

    log.warning("broker does not answer", extra={"route": "kafka", "wait_seconds": 0.4})

Programs call `configure` once; a library's user configures `logging` as they like, and the facts
are attributes of the record.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final, Literal

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

LogFormat = Literal["text", "json"]

ROOTS: Final = ("outbox", "relay")
"""The loggers whose records `configure` shows."""

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
_COLOURS: Final = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}
_DIM: Final = "\x1b[2m"
_PLAIN: Final = "\x1b[0m"


def facts_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return what was passed as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `ts`, `level`, `event`, the facts, and a `traceback` if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **facts_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class TextFormatter(logging.Formatter):
    """One readable line: time, level, event, then `name=value`; coloured on a terminal."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        time = datetime.fromtimestamp(record.created, UTC).astimezone()
        facts = " ".join(f"{name}={_shown(value)}" for name, value in facts_of(record).items())
        level = f"{record.levelname.lower():<7}"
        if self._colour:
            level = f"{_COLOURS.get(record.levelname, _DIM)}{level}{_PLAIN}"
            facts = facts and f"{_DIM}{facts}{_PLAIN}"
        line = f"{time:%H:%M:%S}.{time.microsecond // 1000:03d} {level} {record.getMessage()}"
        line = f"{line}  {facts}" if facts else line
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(
    log_format: LogFormat = "text", level: int = logging.INFO, stream: IO[str] | None = None
) -> None:
    """Show this project's logs on a stream, by default standard error; a later call replaces it."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        JsonFormatter() if log_format == "json" else TextFormatter(colour=target.isatty())
    )
    for name in ROOTS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


def _shown(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or not c.isprintable() for c in text) else text
