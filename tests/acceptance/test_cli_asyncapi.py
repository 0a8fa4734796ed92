"""`outbox schema asyncapi` and `outbox schema docs`, as their user has them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.cli import Program
from tests.asyncapi_schema import problems

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = '<script>alert(1)</script>" onload="x &amp; \\x1b[31m\\u202e'
EVENTS = f"""
from typing import Annotated
from pydantic import BaseModel, Field
import outbox

@outbox.event("pages.order.placed", key="order_id", owner={HOSTILE!r}, examples=[
    {{"order_id": 1, "name": "</pre><img src=https://elsewhere/x>", "tags": ["z", "x", "y"]}},
])
class Placed(BaseModel):
    order_id: int
    tags: set[str] = {{"c", "a", "b"}}
    name: Annotated[str, outbox.Personal, Field(description={HOSTILE!r})] = {HOSTILE!r}

@outbox.event("pages.order.placed", version=2, key="order_id", description={HOSTILE!r})
class PlacedAgain(BaseModel):
    order_id: int
"""
CONSUMERS = f"""
import outbox
from pages_events import PlacedAgain

billing = outbox.Consumer({HOSTILE!r}, database="postgresql+psycopg://u:hush@host/db")

@billing.on(PlacedAgain)
def handle(event, context): ...

@billing.on({HOSTILE!r})
def others(event, context): ...
"""
SETTINGS = """
database_url = "postgresql+psycopg://u:hush@host/db"
source = "/shop"

[routes."kafka <b>"]
transport = "kafka"
bootstrap_servers = "broker-1:9092"
where = { source = "<i>" }

[routes."kafka <b>".client]
sasl_password = "hush"
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder: Path = tmp_path_factory.mktemp("pages")
    (folder / "pages_events.py").write_text(EVENTS)
    (folder / "pages_consumers.py").write_text(CONSUMERS)
    (folder / "outbox.toml").write_text(SETTINGS)
    return Program(folder)


ASYNCAPI = ("schema", "asyncapi", "--app", "pages_consumers")
DOCS = ("schema", "docs", "--app", "pages_consumers", "--to", "page.html")


@pytest.fixture(scope="module")
def page(program: Program) -> str:
    done = program.run(*DOCS, "--title", HOSTILE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "wrote page.html\n", "")
    return (program.folder / "page.html").read_text()


def test_the_document_is_valid_whatever_people_call_things(program: Program) -> None:
    done = program.run(*ASYNCAPI, "--title", "Shop", "--document-version", "2.0.0")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert problems(document) == []
    assert document["info"]["title"] == "Shop"
    assert document["info"]["version"] == "2.0.0"
    assert {each["action"] for each in document["operations"].values()} == {"send", "receive"}
    assert "hush" not in done.stdout


def test_the_document_is_the_same_in_every_process(program: Program) -> None:
    texts = []
    for seed in ("1", "2"):
        done = program.run(*ASYNCAPI, "--to", "a.json", PYTHONHASHSEED=seed)
        assert (done.returncode, done.stdout) == (0, "wrote a.json\n")
        texts.append((program.folder / "a.json").read_text())
    assert texts[0] == texts[1]


def test_without_settings_there_are_messages_and_no_channels(
    program: Program, tmp_path: Path
) -> None:
    (tmp_path / "alone_events.py").write_text(EVENTS.replace("pages.", "alone."))
    done = Program(tmp_path).run("schema", "asyncapi", "--app", "alone_events")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert problems(document) == []
    assert set(document["components"]["messages"]) == {
        "alone.order.placed.v1",
        "alone.order.placed.v2",
    }
    assert "channels" not in document


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ((*ASYNCAPI, "--to", "nowhere/a.json"), {}, "cannot write nowhere/a.json"),
        (("schema", "asyncapi", "--app", "not_there"), {}, "no module 'not_there'"),
        (ASYNCAPI, {"OUTBOX_ROUTES__X__TRANSPORT": "fax"}, "there is no transport 'fax'"),
        (ASYNCAPI, {"OUTBOX_CONSUMERS__X__ROUTE": "gone"}, "there is no route 'gone'"),
    ],
)
def test_a_mistake_is_one_sentence(
    program: Program, arguments: tuple[str, ...], environment: dict[str, str], words: str
) -> None:
    done = program.run(*arguments, **environment)
    assert done.returncode in {1, 2}
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


class Elements(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_nothing_that_people_write_becomes_part_of_the_page(page: str) -> None:
    found = Elements(page)
    tags = [tag for tag, _ in found.tags]
    assert tags.count("script") == 1
    assert not {"img", "i", "link", "iframe"} & set(tags)
    names = {name for _, attributes in found.tags for name in attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"src", "style"}
    assert not {"\x1b", "\u202e"} & set(page)
    assert HOSTILE[:25] in "".join(found.texts)
    assert "hush" not in page


def test_a_browser_loads_nothing_and_runs_the_page_s_own_script_alone(page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    links = [attributes["href"] for tag, attributes in Elements(page).tags if tag == "a"]
    assert all(link is not None and link.startswith("#") for link in links)


def test_every_link_leads_to_a_place_that_is_there_once(page: str) -> None:
    found = Elements(page).tags
    places = [attributes["id"] for _, attributes in found if "id" in attributes]
    links = {attributes["href"] for tag, attributes in found if tag == "a"}
    assert len(places) == len(set(places))
    assert links <= {f"#{place}" for place in places}


def test_the_page_tells_what_a_reader_looks_for(page: str) -> None:
    text = " ".join(" ".join(Elements(page).texts).split())
    for words in (
        "pages.order.placed v2",
        "Version 1",
        "key order_id",
        "pages.order on kafka broker-1:9092 by route kafka <b> as JSON, where source is like <i>",
        "personal",
        "field type required description",
        "By another application.",
        "published by /shop",
    ):
        assert words in text, words
