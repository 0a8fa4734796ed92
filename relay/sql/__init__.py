"""Named statements: what SQLAlchemy Core cannot say, or what an algorithm explains.

A file holds statements that start with a line `-- name: …`; other comment lines say how they work.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

_MARK: Final = "-- name:"


def statements(file: str) -> dict[str, bytes]:
    """Return the statements of `<file>.sql` by name, without their comments, as drivers take them.

    Raises `ValueError` where a name is given twice or a statement has none.
    """
    return parse(files(__name__).joinpath(f"{file}.sql").read_text(encoding="utf-8"))


def parse(text: str) -> dict[str, bytes]:
    """Split the text of a file into its statements."""
    head, *parts = text.split(_MARK)
    if _body(head):
        msg = f"this SQL has no line {_MARK!r} above it: {_body(head)[:60]!r}"
        raise ValueError(msg)
    named: dict[str, bytes] = {}
    for part in parts:
        name, _, rest = part.partition("\n")
        if name.strip() in named:
            msg = f"two statements have the name {name.strip()!r}"
            raise ValueError(msg)
        named[name.strip()] = _body(rest).encode()
    return named


def _body(text: str) -> str:
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return "\n".join(lines).strip().removesuffix(";")
