"""A timeline as a page for a browser: one file, without scripts, that loads nothing."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from outbox.cli.envelopes import laid_out
from outbox.cli.output import visible
from outbox.cli.timeline_rows import happenings
from outbox.cli.timeline_text import STYLES, data_of, headline, sentence, summary, time_of, when
from outbox.codec import time_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.cli.timeline_rows import Happening
    from relay.timeline import Story, Timeline

CSS: Final = """\
:root { color-scheme: light dark; --line: #8883; --dim: #6b6b6b; --bad: #b32d20; --open: #8a5a00;
  --accent: #2f6fab; }
@media (prefers-color-scheme: dark) {
  :root { --dim: #a0a0a0; --bad: #ff8272; --open: #e3a53c; --accent: #64a3dc; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0; }
p.summary { color: var(--dim); margin: .25rem 0 2rem; }
article { border-left: 3px solid var(--accent); padding: 0 0 .25rem 1rem; margin: 0 0 1.5rem; }
article.caused { border-left-style: dashed; }
h2 { font-size: 1.05rem; margin: 0; }
h2 .who, h2 .why { font-weight: normal; }
p.what { margin: .1rem 0; }
time, .when { color: var(--dim); font-variant-numeric: tabular-nums; }
ol { list-style: none; margin: .5rem 0; padding: 0; }
li { display: grid; grid-template-columns: 15.5rem 1fr; gap: .75rem; padding: .1rem 0;
  border-top: 1px solid var(--line); }
li.red { color: var(--bad); } li.yellow { color: var(--open); }
details { font-size: .9rem; } summary { cursor: pointer; color: var(--dim); }
pre { margin: .25rem 0; padding: .75rem; background: #8881; border-radius: .3rem;
  white-space: pre-wrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; margin: .5rem 0; }
dt { color: var(--dim); } dd { margin: 0; }
@media (max-width: 40rem) { li { grid-template-columns: 1fr; gap: 0; } }
@media print { body { max-width: none; padding: 0; } article { break-inside: avoid; } }
"""
INDENT_REM: Final = 2


def page(found: Timeline) -> str:
    """Return the page."""
    return "\n".join(_page(found)) + "\n"


def _page(found: Timeline) -> Iterator[str]:
    title = _text(f"{found.key}: {summary(found)}")
    yield "<!doctype html>"
    yield '<html lang="en">'
    yield '<head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    # Nothing in an event can make the browser fetch or run anything.
    yield (
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    )
    yield f"<title>{title}</title>"
    yield f"<style>\n{CSS}</style></head>"
    yield "<body>"
    yield f"<h1>{_text(found.key)}</h1>"
    more = "; there are more events than these" if found.is_cut else ""
    yield f'<p class="summary">{_text(summary(found) + more)}. Times are UTC.</p>'
    for story in found.stories:
        yield from _article(story)
    yield "</body></html>"


def _article(story: Story) -> Iterator[str]:
    kind = ' class="caused"' if story.depth else ""
    yield f'<article{kind} style="margin-left: {story.depth * INDENT_REM}rem">'
    yield _time(story)
    yield f"<h2>{_headline(story)}</h2>"
    yield f'<p class="what">{_text(data_of(story))}</p>'
    yield "<ol>"
    for each in happenings(story)[1:]:
        yield _happening(each)
    yield "</ol>"
    yield "<details><summary>the event</summary>"
    yield f"<dl>{''.join(_attributes(story))}</dl>"
    yield f"<pre>{_data(story)}</pre></details>"
    yield "</article>"


def _time(story: Story) -> str:
    time = story.event.time
    if time is None:
        return f'<span class="when">{_text(time_of(story))}</span>'
    return f'<time datetime="{time_text(time)}">{_text(time_of(story))}</time>'


def _headline(story: Story) -> str:
    return " ".join(
        _text(text) if kind == "what" else f'<span class="{kind}">{_text(text)}</span>'
        for kind, text in headline(story)
    )


def _happening(happening: Happening) -> str:
    style = STYLES.get(happening.what)
    kind = f' class="{style}"' if style else ""
    time, text = _text(when(happening)), _text(sentence(happening))
    return f'<li{kind}><span class="when">{time}</span><span>{text}</span></li>'


def _attributes(story: Story) -> Iterator[str]:
    envelope = story.event.envelope
    values = {
        "id": envelope.id,
        "source": envelope.source,
        "subject": envelope.subject,
        "partition key": envelope.partition_key,
        "sequence": envelope.sequence,
        "correlation id": envelope.correlation_id,
        "causation id": envelope.causation_id,
    }
    for name, value in values.items():
        if value is not None:
            yield f"<dt>{name}</dt><dd>{_text(value)}</dd>"


def _data(story: Story) -> str:
    if not story.event.is_stored:
        return "no longer stored"
    return "\n".join(_text(line) for line in laid_out(story.event.envelope.data).split("\n"))


def _text(value: object) -> str:
    """Return a text for a page: control characters and marks of direction are written out."""
    return escape(visible(value))
