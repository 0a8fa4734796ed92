"""`outbox schema`: the catalogue of an application, and whether a change of it breaks anybody."""

from __future__ import annotations

import errno
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from outbox.cli.application import load_catalogue
from outbox.cli.errors import CommandLineError, FailedError
from outbox.cli.invocation import of, require_command
from outbox.cli.output import Column, counted, json_text
from outbox.errors import ConfigurationError
from outbox.schema.check import Verdict, check
from outbox.schema.document import document, file_name, written
from outbox.schema.fields import fields
from outbox.schema.finding import Mode
from outbox.schema.stored import read
from outbox.upcasters import upcasters

if TYPE_CHECKING:
    from outbox.cli.output import Output
    from outbox.event import EventType

app = typer.Typer(
    help="Look at event types, write their schemas, check changes of them.",
    callback=require_command,
    invoke_without_command=True,
)

AppOption = Annotated[
    list[str],
    typer.Option(
        "--app", metavar="MODULE", help="Whose events, for instance shop.events; repeat it."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]
BaseOption = Annotated[
    str,
    typer.Option(
        "--base-uri", metavar="URI", help="Where the files will be found, for an absolute $id."
    ),
]
STYLES: Final = {"breaking": "bold red", "compatible": "yellow", "new": "green", "gone": "yellow"}


@app.command("list")
def list_types(
    context: typer.Context,
    *,
    apps: AppOption,
    type_glob: Annotated[
        str | None,
        typer.Option("--type", metavar="GLOB", help="Only these types, such as 'shop.order.*'."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON Lines for scripts.")] = False,
) -> None:
    """List the event types of an application, every version."""
    run = of(context)
    found = [
        each
        for each in load_catalogue(apps)
        if type_glob is None or fnmatchcase(each.name, type_glob)
    ]
    if as_json:
        for each in found:
            run.output.json_line(_facts(each))
        return
    columns = [
        Column("type"),
        Column("version", right=True),
        Column("key"),
        Column("personal", right=True),
        Column("owner"),
        Column("description", shrinks=True),
    ]
    rows = [
        (each.name, each.version, each.key, len(each.personal), each.owner, each.description)
        for each in found
    ]
    run.output.table(columns, rows)


@app.command("show")
def show_type(
    context: typer.Context,
    which: Annotated[str, typer.Argument(metavar="TYPE", help="For instance shop.order.placed.")],
    *,
    apps: AppOption,
    version: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="By default the newest.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Its JSON Schema, as `export` writes it.")
    ] = False,
) -> None:
    """Show one event type in full."""
    run = of(context)
    event_type = _find(load_catalogue(apps), which, version)
    if as_json:
        run.output.json(document(event_type))
        return
    facts = _facts(event_type)
    sources = [
        str(number)
        for number in range(1, event_type.version)
        if upcasters.chain(event_type.name, number, event_type.version)
    ]
    names = ("type", "version", "class", "key", "owner", "description")
    run.output.fields(
        [*((name, facts[name]) for name in names), ("upcasts from", ", ".join(sources))]
    )
    columns = [
        Column("field"),
        Column("type", shrinks=True),
        Column("required"),
        Column("default", shrinks=True),
        Column("personal"),
        Column("description", shrinks=True),
    ]
    subjects = {".".join(each.path): f"of {'.'.join(each.subject)}" for each in event_type.personal}
    rows = [
        (
            each.name,
            each.type,
            "yes" if each.is_required else "no",
            each.default,
            subjects.get(each.name, "yes") if each.is_personal else "",
            each.description,
        )
        for each in fields(document(event_type))
    ]
    run.output.line()
    run.output.table(columns, rows)
    for example in event_type.examples:
        run.output.line()
        run.output.raw(json_text(example, indent=True))


@app.command("export")
def export(
    context: typer.Context,
    *,
    apps: AppOption,
    folder: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="Made where it is not there.")
    ],
    base_uri: BaseOption = "",
) -> None:
    """Write JSON Schemas (draft 2020-12), one file a type and version.

    Files of other versions stay: their events may still be stored somewhere.
    """
    run = of(context)
    found = {each: written(document(each, base_uri)) for each in load_catalogue(apps)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        msg = f"{folder} cannot be made: {exc.strerror}; give another folder to --to"
        raise FailedError(msg) from exc
    changed = [path for each, text in found.items() if (path := _export(folder, each, text))]
    for path in changed:
        run.output.line(f"wrote {path}")
    run.output.line(f"{counted(len(found), 'schema')} in {folder}, {len(changed)} of them changed")


@app.command("check")
def check_changes(
    context: typer.Context,
    *,
    apps: AppOption,
    against: Annotated[
        str,
        typer.Option(
            metavar="DIR|REVISION[:DIR]",
            help="What was exported before: a folder, or one in git, such as origin/main:schemas.",
        ),
    ],
    mode: Annotated[
        Mode,
        typer.Option(
            help="backward: readers of today, stored events. forward: readers of before, new"
            " events. full: both."
        ),
    ] = Mode.FULL,
    as_json: JsonOption = False,
) -> None:
    """Fail where a change breaks those who read or write events of a version.

    Exit code 1 where something breaks, or cannot be told not to.
    """
    run = of(context)
    found = load_catalogue(apps)
    try:
        stored = read(against)
        verdicts = check(found, stored, mode)
    except ConfigurationError as exc:
        raise CommandLineError(str(exc)) from exc
    if not stored:
        msg = f"there is no schema in {against!r}: `outbox schema export` writes them"
        raise CommandLineError(msg)
    broken = [verdict for verdict in verdicts if verdict.findings]
    if as_json:
        run.output.json(
            {
                "mode": mode,
                "is_compatible": not broken,
                "verdicts": [asdict(verdict) for verdict in verdicts],
            }
        )
    else:
        newest = {each.name: each for each in found}
        known = {(each.name, each.version) for each in stored}
        classes = {
            (each.name, each.version): each.cls.__name__
            for each in newest.values()
            if (each.name, each.version) in known
        }
        for verdict in verdicts:
            _show(run.output, verdict, classes.get((verdict.name, verdict.version)))
    if broken:
        raise FailedError(
            f"{counted(len(broken), 'version')} of events changed in a way that breaks others:"
            f" {', '.join(map(str, broken))}"
        )


def _facts(event_type: EventType) -> dict[str, Any]:
    cls = event_type.cls
    return {
        "type": event_type.name,
        "version": event_type.version,
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "key": event_type.key,
        "owner": event_type.owner,
        "description": event_type.description,
        "personal": [str(each) for each in event_type.personal],
        "examples": event_type.examples,
    }


def _find(found: list[EventType], name: str, version: int | None) -> EventType:
    own = {each.version: each for each in found if each.name == name}
    if not own:
        known = ", ".join(sorted({each.name for each in found}))
        msg = f"there is no event type {name!r}; there is {known}"
        raise FailedError(msg)
    if version is not None and version not in own:
        known = ", ".join(f"v{number}" for number in own)
        msg = f"there is no version {version} of {name}; there is {known}"
        raise FailedError(msg)
    return own[version or max(own)]


def _export(folder: Path, event_type: EventType, text: str) -> Path | None:
    """Write the file of a type unless it is like that already; return it where it was not."""
    path = folder / file_name(event_type.name, event_type.version)
    content = text.encode()
    try:
        if path.exists() and path.read_bytes() == content:
            return None
        path.write_bytes(content)
    except OSError as exc:
        what = (
            "its file is called as the type is: give that a shorter name"
            if exc.errno == errno.ENAMETOOLONG
            else "make it writable, or give another folder to --to"
        )
        msg = f"the schema of {event_type} cannot be written to {path}: {exc.strerror}; {what}"
        raise FailedError(msg) from exc
    return path


def _show(output: Output, verdict: Verdict, cls: str | None) -> None:
    output.line(f"{verdict.state:<10}  {verdict}", STYLES.get(verdict.state, ""))
    if verdict.note:
        output.line(f"  {verdict.note}")
    for each in verdict.findings:
        breaks = " and ".join(each.breaks) + ("" if each.is_certain else ", as it may be")
        output.line(f"  {each.field or 'the event'}: {each.kind}: it {each.says} ({breaks})")
        output.line(f"    → {each.advice}")
    if verdict.findings and cls is not None:
        output.line(
            f"  or declare the new structure as version {verdict.version + 1}, and write"
            f" @outbox.upcast({cls}, from_version={verdict.version})"
        )
