"""The pages of the documentation, of which tests run what they show."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parents[1] / "docs"


def page(name: str, section: str | None = None) -> str:
    """Return the text of a page, or of what stands below one of its `##` headings."""
    text = (DOCS / name).read_text(encoding="utf-8")
    if section is None:
        return text
    _, found, rest = text.partition(f"\n## {section}\n")
    assert found, f"{name} has no section {section!r}"
    return rest.partition("\n## ")[0]


def block(text: str, language: str, containing: str = "") -> str:
    """Return the one block of code of a text, of those in a language, that contains something."""
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    (found,) = [each for each in blocks if containing in each]
    return str(found)
