"""What the pages say that can be looked up in the code or beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from outbox.settings import ConsumerSettings, RouteSettings, Settings

if TYPE_CHECKING:
    from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
"""Not of a picture: those are made with the figures."""


def told(page: str) -> dict[str, str]:
    """Return what a page says of each setting, in a table or in TOML."""
    text = (ROOT / "docs" / page).read_text()
    table = re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", text, re.MULTILINE)
    return dict(table + re.findall(r"^(\w+) = (\S+)", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("page", "model"),
    [
        ("operations/cli.md", Settings),
        ("operations/cli.md", RouteSettings),
        ("guide/consumers.md", ConsumerSettings),
    ],
)
def test_the_pages_tell_the_defaults_of_the_settings(page: str, model: type[BaseModel]) -> None:
    numbers: dict[str, Any] = {
        name: field.default
        for name, field in model.model_fields.items()
        if isinstance(field.default, int | float)
    }
    assert numbers
    assert {name: float(told(page)[name]) for name in numbers} == numbers


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_the_pages_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        path, _, place = target.partition("#")
        if "://" in target:
            continue
        found = page if not path else page.parent / path
        assert found.exists(), target
        if place:
            assert place in places(found.read_text()), target


def places(text: str) -> set[str]:
    """Return what a link may name in a page: its headings, and what has an id."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def test_the_list_of_decisions_has_each_of_them() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^\| \[\d+\]\((\S+)\)", (folder / "README.md").read_text(), re.MULTILINE)
    assert listed == sorted(path.name for path in folder.glob("0*.md"))
