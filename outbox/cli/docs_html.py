"""A catalogue as a page for a browser: one file that loads nothing, with a script for its filter.

The page names that script by its digest, so that a browser runs no other, whatever a description
says.
"""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from outbox.asyncapi.document import conditions
from outbox.asyncapi.landscape import Kind
from outbox.cli.output import counted, json_text, visible
from outbox.formats.wire import MEDIA_TYPES
from outbox.schema.document import document
from outbox.schema.fields import Field, fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from outbox.asyncapi.landscape import Channel, Landscape
    from outbox.event import EventType

CSS: Final = """\
:root { color-scheme: light dark; --line: #8884; --dim: #666; --accent: #1f5f9e; --soft: #8881;
  --personal: #a1460b; --back: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --dim: #a0a0a8; --accent: #7fb4ea; --personal: #f0a36c; --back: #16181d; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
header { padding: 2rem 1.25rem 1rem; max-width: 80rem; margin: 0 auto; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; }
header p { color: var(--dim); margin: .25rem 0 0; }
.page { max-width: 80rem; margin: 0 auto; padding: 0 1.25rem 4rem; }
nav ul { list-style: none; margin: 0; padding: 0; } nav li { padding: .15rem 0; }
nav h2 { font-size: .8rem; text-transform: uppercase; letter-spacing: .06em; color: var(--dim);
  margin: 1.25rem 0 .25rem; }
.filter { position: sticky; top: 0; z-index: 1; background: var(--back); padding: .6rem 0;
  display: flex; align-items: baseline; gap: .75rem; }
.filter input { font: inherit; flex: 1; min-width: 0; padding: .45rem .7rem; color: inherit;
  background: var(--soft); border: 1px solid var(--line); border-radius: .4rem; }
.filter output { color: var(--dim); font-size: .85rem; white-space: nowrap; }
section { padding: 1.5rem 0; border-top: 1px solid var(--line); scroll-margin-top: 3.5rem; }
section > h2 { font-size: 1.2rem; margin: 0; }
.badge { font-size: .75rem; font-weight: normal; border: 1px solid var(--line); white-space: nowrap;
  border-radius: 1rem; padding: .05rem .55rem; color: var(--dim); vertical-align: .1em; }
.badge.personal { color: var(--personal); border-color: currentColor; padding: 0 .45rem; }
h3 { font-size: .8rem; text-transform: uppercase; letter-spacing: .06em; color: var(--dim);
  margin: 1.25rem 0 .35rem; }
section p { margin: .4rem 0; max-width: 42rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .6rem 0; }
dt { color: var(--dim); } dd { margin: 0; }
code, pre { font: .875rem/1.5 ui-monospace, SFMono-Regular, Consolas, monospace; }
pre { background: var(--soft); border-radius: .4rem; padding: .75rem 1rem; margin: .35rem 0;
  overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; font-size: .925rem; }
th { text-align: left; font-weight: normal; color: var(--dim); font-size: .8rem; }
th, td { padding: .3rem 1.25rem .3rem 0; vertical-align: top; }
tbody tr { border-top: 1px solid var(--line); }
.fields th:nth-child(1) { width: 29%; } .fields th:nth-child(2) { width: 20%; }
.fields th:nth-child(3) { width: 16%; }
.topics th:nth-child(-n+3) { width: 25%; } .topics th:nth-child(4) { width: 11%; }
.dim { color: var(--dim); }
ul.plain { list-style: none; margin: .35rem 0; padding: 0; }
ul.plain li { padding: .2rem 0; }
summary { cursor: pointer; color: var(--accent); padding: .3rem 0; }
details.old { margin: .75rem 0 0; border-left: 3px solid var(--line); padding-left: 1rem; }
[hidden] { display: none !important; }
@media (min-width: 62rem) {
  .page { display: grid; grid-template-columns: 16rem minmax(0, 1fr); gap: 2.5rem; }
  nav { position: sticky; top: 0; max-height: 100vh; overflow-y: auto; align-self: start;
    padding-bottom: 2rem; font-size: .925rem; }
  nav summary { display: none; }
}
@media (max-width: 42rem) {
  table, tbody, tr, td { display: block; width: auto; } thead { display: none; }
  tr { padding: .4rem 0; } td { padding: 0; }
  .fields td:nth-child(2), .fields td:nth-child(3) { display: inline; padding-right: .75rem; }
  td[data-name]:not(:empty)::before { content: attr(data-name) ": "; color: var(--dim); }
}
@media print { nav, .filter { display: none; } section { break-inside: avoid; } }
"""
SCRIPT: Final = """
const box = document.querySelector(".filter");
const input = box.querySelector("input");
const sections = [...document.querySelectorAll("section[data-type]")];
const texts = sections.map((each) => each.textContent.toLowerCase());
const total = sections.length;
const menu = document.querySelector("nav details");
function filter() {
  const words = input.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let count = 0;
  sections.forEach((section, index) => {
    const fits = words.every((word) => texts[index].includes(word));
    section.hidden = !fits;
    document.querySelector(`nav li[data-of="${section.id}"]`).hidden = !fits;
    count += fits;
  });
  box.querySelector("output").value = `${count} of ${total}`;
}
input.addEventListener("input", filter);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== input) { event.preventDefault(); input.focus(); }
  if (event.key === "Escape" && event.target === input) { input.value = ""; filter(); }
});
const wide = matchMedia("(min-width: 62rem)");
const unfold = () => { menu.open = wide.matches; };
wide.addEventListener("change", unfold);
unfold();
box.hidden = false;
filter();
"""
_SPECIAL: Final = re.compile(r"[^A-Za-z0-9._-]")
PACKINGS: Final = {
    "cloudevents": "as one JSON object (CloudEvents, structured mode)",
    "json": "as JSON",
    **{name: f"as {name}, by a schema registry" for name in MEDIA_TYPES},
}


def page(found: Landscape, title: str) -> str:
    """Return the page. It depends on declarations and settings alone."""
    return "\n".join(_page(found, title)) + "\n"


def _page(found: Landscape, title: str) -> Iterator[str]:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    names = _by_name(found)
    yield "<!doctype html>"
    yield '<html lang="en">'
    yield '<head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield f"<title>{_text(title)}</title>"
    yield f"<style>\n{CSS}</style></head>"
    yield "<body>"
    yield f"<header><h1>{_text(title)}</h1>"
    yield f"<p>{_summary(found)}</p></header>"
    yield '<div class="page">'
    yield from _menu(found, names)
    yield "<main>"
    yield '<div class="filter" hidden>'
    yield '<input type="search" placeholder="Filter: name, field, owner…" aria-label="Filter">'
    yield "<output></output></div>"
    for name, kinds in names.items():
        yield from _section(found, name, kinds)
    yield from _channels(found)
    yield from _consumers(found)
    yield "</main></div>"
    yield f"<script>{SCRIPT}</script>"
    yield "</body></html>"


def _by_name(found: Landscape) -> dict[str, list[Kind]]:
    """Return each type with one kind for each of its versions, the newest first.

    Types that are declared elsewhere come last.
    """
    kinds = sorted({Kind(each.name, each.version) for each in found.kinds})
    groups = groupby(kinds, key=lambda each: each.name)
    grouped = {name: sorted(group, reverse=True) for name, group in groups}
    return dict(sorted(grouped.items(), key=lambda item: item[1][0].version == 0))


def _summary(found: Landscape) -> str:
    facts = [
        counted(len(_by_name(found)), "event type"),
        counted(len(found.channels), "topic"),
        counted(len(found.consumers), "consumer"),
    ]
    return f"{', '.join(facts)}; published by <code>{_text(found.source)}</code>"


def _menu(found: Landscape, names: Iterable[str]) -> Iterator[str]:
    yield "<nav><details open><summary>Contents</summary><h2>Events</h2><ul>"
    for name in names:
        yield f'<li data-of="{_anchor("type", name)}">{_link("type", name)}</li>'
    yield "</ul>"
    if found.channels:
        yield '<h2>Places</h2><ul><li><a href="#topics">Topics</a></li></ul>'
    if found.consumers:
        yield "<h2>Consumers</h2><ul>"
        for name in found.consumers:
            yield f"<li>{_link('consumer', name)}</li>"
        yield "</ul>"
    yield "</details></nav>"


def _section(found: Landscape, name: str, kinds: list[Kind]) -> Iterator[str]:
    yield f'<section data-type id="{_anchor("type", name)}">'
    newest, *older = kinds
    yield f"<h2>{_text(name)} {_version(newest)}</h2>"
    yield from _version_block(found, newest)
    for kind in older:
        yield f'<details class="old"><summary>Version {kind.version}</summary>'
        yield from _version_block(found, kind)
        yield "</details>"
    yield "</section>"


def _version(kind: Kind) -> str:
    return f'<span class="badge">v{kind.version}</span>' if kind.version else ""


def _version_block(found: Landscape, kind: Kind) -> Iterator[str]:
    event_type = found.type_of(kind)
    if event_type is None:
        yield '<p class="dim">It is declared elsewhere.</p>'
    else:
        yield from _declared(event_type)
    yield from _published(found, kind)
    yield from _received(found, kind)
    if event_type is not None:
        examples = document(event_type).get("examples", [])
        for number, example in enumerate(examples, 1):
            several = f" {number}" if len(examples) > 1 else ""
            yield f"<h3>Example{several}</h3><pre>{_json(example)}</pre>"


def _declared(event_type: EventType) -> Iterator[str]:
    if event_type.description is not None:
        yield from _prose(event_type.description)
    key = None if event_type.key is None else event_type.json_name(event_type.key)
    yield "<dl>"
    if event_type.owner is not None:
        yield f"<dt>owner</dt><dd>{_text(event_type.owner)}</dd>"
    order = "none: its events have no order" if key is None else f"<code>{_text(key)}</code>"
    yield f"<dt>key</dt><dd>{order}</dd></dl>"
    yield '<table class="fields"><thead><tr><th>field</th><th>type</th><th>required</th>'
    yield "<th>description</th></tr></thead><tbody>"
    for each in fields(document(event_type)):
        yield _row(each)
    yield "</tbody></table>"


def _row(field: Field) -> str:
    above, dot, own = field.name.rpartition(".")
    mark = ' <span class="badge personal">personal</span>' if field.is_personal else ""
    default = (
        ""
        if field.default is None
        else f' <span class="dim">default <code>{_text(field.default)}</code></span>'
    )
    required = "yes" if field.is_required else "no"
    return (
        f'<tr><td><code><span class="dim">{_text(above + dot)}</span>{_text(own)}</code>{mark}</td>'
        f"<td>{_text(field.type)}</td>"
        f'<td data-name="required">{required}{default}</td>'
        f"<td>{_text(' '.join((field.description or '').split()))}</td></tr>"
    )


def _published(found: Landscape, kind: Kind) -> Iterator[str]:
    lines = [
        f"<li>{_place(found, channel, _address(channel))}"
        f" by route <code>{_text(sending.route)}</code>"
        f' <span class="dim">{_manner(each.packing)}{_where(conditions(sending))}</span></li>'
        for channel in found.channels
        for sending in channel.sendings
        for each in sending.kinds
        if _is_of(each, kind)
    ]
    yield "<h3>Published</h3>"
    yield from _listed(lines, "By no route." if kind.version else "By another application.")


def _received(found: Landscape, kind: Kind) -> Iterator[str]:
    lines = [
        f"<li>{_link('consumer', receiving.consumer)} from"
        f" {_place(found, channel, receiving.address)}</li>"
        for channel in found.channels
        for receiving in channel.receivings
        for each in receiving.kinds
        if _is_of(each, kind)
    ]
    reached = {each.consumer for channel in found.channels for each in channel.receivings}
    lines += [
        f"<li>{_link('consumer', name)}</li>"
        for name, kinds in found.consumers.items()
        if name not in reached and any(_is_of(each, kind) for each in kinds)
    ]
    yield "<h3>Received</h3>"
    yield from _listed(lines, "No consumer of this application.")


def _channels(found: Landscape) -> Iterator[str]:
    if not found.channels:
        return
    yield '<section id="topics"><h2>Topics</h2>'
    yield '<table class="topics"><thead><tr><th>topic</th><th>broker</th><th>events</th>'
    yield "<th>routes</th><th>consumers</th></tr></thead><tbody>"
    for channel in found.channels:
        names = dict.fromkeys(kind.name for kind in channel.kinds)
        routes = ", ".join(f"<code>{_text(each.route)}</code>" for each in channel.sendings)
        consumers = ", ".join(_link("consumer", each.consumer) for each in channel.receivings)
        yield (
            f"<tr><td><code>{_text(_address(channel))}</code></td>"
            f'<td data-name="broker">{_broker(found, channel)}</td>'
            f'<td data-name="events">{"<br>".join(_link("type", name) for name in names)}</td>'
            f'<td data-name="routes">{routes}</td><td data-name="consumers">{consumers}</td></tr>'
        )
    yield "</tbody></table></section>"


def _consumers(found: Landscape) -> Iterator[str]:
    for name, kinds in found.consumers.items():
        yield f'<section id="{_anchor("consumer", name)}"><h2>{_text(name)}'
        yield ' <span class="badge">consumer</span></h2>'
        lines = [f"<li>{_link('type', each.name)} {_version(each)}</li>" for each in kinds]
        yield "<h3>Handles</h3>"
        yield from _listed(lines, "Nothing.")
        addresses = dict.fromkeys(
            f"<li>{_place(found, channel, receiving.address)}</li>"
            for channel in found.channels
            for receiving in channel.receivings
            if receiving.consumer == name
        )
        if addresses:
            yield "<h3>Receives from</h3>"
            yield from _listed(list(addresses), "")
        yield "</section>"


def _listed(lines: list[str], nothing: str) -> Iterator[str]:
    if lines:
        yield '<ul class="plain">'
        yield from lines
        yield "</ul>"
    else:
        yield f'<p class="dim">{nothing}</p>'


def _is_of(kind: Kind, wanted: Kind) -> bool:
    return (kind.name, kind.version) == (wanted.name, wanted.version)


def _place(found: Landscape, channel: Channel, address: str) -> str:
    return f"<code>{_text(address or channel.id)}</code> on {_broker(found, channel)}"


def _address(channel: Channel) -> str:
    return channel.address or channel.id


def _broker(found: Landscape, channel: Channel) -> str:
    broker = found.brokers[channel.server]
    place = ", ".join(broker.hosts) + (broker.path or "")
    return f"{_text(broker.protocol)} <code>{_text(place)}</code>"


def _manner(packing: str) -> str:
    return _text(PACKINGS[packing])


def _where(text: str) -> str:
    return f", where {_text(text)}" if text else ""


def _anchor(kind: str, name: str) -> str:
    """Return an id that is a name's alone, of characters that mean nothing in a link."""
    return f"{kind}-{_SPECIAL.sub(lambda found: f'~{ord(found[0]):x}', name)}"


def _link(kind: str, name: str) -> str:
    return f'<a href="#{_anchor(kind, name)}">{_text(name)}</a>'


def _prose(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield f"<p>{_text(' '.join(paragraph.split()))}</p>"


def _json(value: Any) -> str:
    return "\n".join(_text(line) for line in json_text(value, indent=True).split("\n"))


def _text(value: object) -> str:
    """Return a text for a page: control characters and marks of direction are written out."""
    return escape(visible(value))
