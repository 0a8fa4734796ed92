"""`outbox audit`: verify the trail, seal it, prove one record of it, hand it out."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Final, TypeVar

import orjson
import sqlalchemy as sa
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from outbox.audit.chain import (
    START,
    Anchor,
    Chain,
    ChainBrokenError,
    Finding,
    Head,
    starting_at,
    verified,
)
from outbox.audit.checkpoint import read_checkpoint, write_checkpoint
from outbox.audit.export import FileChain, line
from outbox.audit.places import place_of, read_all
from outbox.audit.proof import check_proof, prove
from outbox.audit.record import MEMBERS, Record, digest, members, to_json
from outbox.audit.seal import Seal, check_seals, make_seal
from outbox.audit.store import TableChain
from outbox.cli.errors import FAILED, CommandLineError, FailedError
from outbox.cli.invocation import Invocation, of, require_command
from outbox.cli.output import counted
from outbox.cli.times import parse_since
from outbox.engine import make_engine
from outbox.errors import ConfigurationError
from outbox.transports import audit as transport
from outbox.transports import transport_of

app = typer.Typer(
    help="Verify the audit trail, seal it, prove what is in it.",
    invoke_without_command=True,
    callback=require_command,
)

Result = TypeVar("Result")

CHECKPOINT_PAGES: Final = 20
"""Pages between two writes of a checkpoint."""

RouteOption = Annotated[
    str | None,
    typer.Option("--route", metavar="R", help="The route whose trail it is, if there are several."),
]
SealOption = Annotated[
    list[str] | None,
    typer.Option("--seal", metavar="PATH", help="A seal, or a folder of seals; repeatable."),
]
PublicKeyOption = Annotated[
    list[Path] | None,
    typer.Option("--public-key", metavar="FILE", help="Whose seals are trusted; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]


@app.command("verify")
def verify(
    context: typer.Context,
    *,
    route: RouteOption = None,
    first: Annotated[
        int | None,
        typer.Option("--from", min=1, metavar="N", help="Trust what stands before position N."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Go on from here, and note here how far it came."),
    ] = None,
    seal: SealOption = None,
    public_key: PublicKeyOption = None,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An export (JSON Lines) in place of the table."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Walk the trail and name the first record that is not what it was.

    Without seals, records that are missing at the end are not noticed, nor a trail that was
    computed anew from some record on.
    """
    run = of(context)
    if first is not None and checkpoint is not None:
        msg = "--from and --checkpoint both say where to begin: use one"
        raise CommandLineError(msg)
    seals = _trusted_seals(seal, public_key)
    anchors = [each.anchor for each in seals]
    noted = None if checkpoint is None else _read(lambda: read_checkpoint(checkpoint))
    if noted is not None and noted.head != START:
        anchors.append(noted)
    chain: TableChain | FileChain = FileChain(file) if file else _table(run, route)
    start = _start(chain, first, noted)
    try:
        if noted is not None or first is not None:
            start = starting_at(chain, start, anchors)
        known = start if noted is None else noted.head
        count, head = _walk(chain, start, anchors, checkpoint, known.position)
    except ChainBrokenError as exc:
        if not as_json:
            raise
        run.output.json(_broken(exc.finding))
        raise typer.Exit(FAILED) from None
    result = {
        "ok": True,
        "records": count,
        "first_position": start.position + 1 if count else None,
        "last_position": head.position,
        "last_hash": head.hash.hex(),
        "sealed_position": seals[-1].last_position if seals else None,
    }
    if as_json:
        run.output.json(result)
        return
    run.output.line(
        f"intact: {counted(count, 'record')}"
        + (f", positions {start.position + 1:,} to {head.position:,}" if count else "")
    )
    if seals:
        run.output.line(f"sealed up to position {seals[-1].last_position:,} (seal {len(seals)})")
    else:
        note = "no seal was given: what is missing at the end, or was computed anew, is not noticed"
        run.output.line(note, "dim")


@app.command("seal")
def seal(
    context: typer.Context,
    *,
    key: Annotated[Path, typer.Option(metavar="FILE", help="The private key.")],
    to: Annotated[
        str,
        typer.Option(metavar="PATH", help="A folder of seals, or a file of one, not there yet."),
    ],
    former: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The seal before, where --to is a file.")
    ] = None,
    route: RouteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify what came since the last seal, and sign it.

    Keep seals where whoever can change the table cannot.
    """
    from outbox.audit.signing import is_signed, read_private_key  # noqa: PLC0415  # an extra

    run = of(context)
    signer = _read(lambda: read_private_key(key))
    place = place_of(to)
    if former is not None:
        before = read_all([str(former)])
    else:
        before = [] if to.endswith(".json") else place.read()
    keys = {bytes.fromhex(each.public_key) for each in before}
    ordered = check_seals(before, keys, is_signed)
    chain = _table(run, route)
    last = ordered[-1] if ordered else None
    with _bar(chain, last.head if last else START) as advance:
        made = make_seal(chain, last, signer, on_page=advance)
    name = place.write(made)
    if as_json:
        run.output.json({"file": name, **made.to_json()})
    else:
        run.output.line(
            f"{name}: positions {made.first_position:,} to {made.last_position:,} are sealed"
        )


@app.command("prove")
def prove_record(
    context: typer.Context,
    event_id: Annotated[str, typer.Argument(metavar="ID", help="Of the event.")],
    *,
    seal: SealOption = None,
    source: Annotated[
        str | None, typer.Option(metavar="S", help="Of the event, where several have this id.")
    ] = None,
    position: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Where one event is there twice.")
    ] = None,
    route: RouteOption = None,
) -> None:
    """Print the proof that an event is in the sealed trail, as JSON for a third party."""
    run = of(context)
    chain = _table(run, route)
    record = _only(chain.with_id(event_id, source), event_id, position)
    if not seal:
        msg = "name the seals by --seal: a proof leads to one of them"
        raise CommandLineError(msg)
    covering = [
        each
        for each in read_all(seal)
        if each.first_position <= record.position <= each.last_position
    ]
    if not covering:
        msg = f"position {record.position:,} is in none of these seals: `outbox audit seal` first"
        raise FailedError(msg)
    run.output.json(prove(chain, record, covering[0]))


@app.command("check-proof")
def check(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The proof; - for standard input.")],
    *,
    public_key: PublicKeyOption = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The event's data, to be compared with the record."),
    ] = None,
    content_type: Annotated[
        str, typer.Option(metavar="T", help="Of the data.")
    ] = "application/json",
    as_json: JsonOption = False,
) -> None:
    """Check a proof with the public key alone: no database, no settings."""
    from outbox.audit.signing import is_signed  # noqa: PLC0415  # an extra

    run = of(context)
    keys = _public_keys(public_key)
    proven = check_proof(_read_json(file), keys, is_signed)
    record = proven.record
    if data is not None and digest(content_type, _read_bytes(data)) != record.data_digest:
        msg = f"the proof holds, but {data} as {content_type} is not the data of the event"
        raise FailedError(msg)
    if as_json:
        run.output.json({"ok": True, "record": to_json(record), "seal": proven.seal.to_json()})
        return
    run.output.line(f"proven: sealed at {proven.seal.sealed_at} by seal {proven.seal.number}")
    run.output.fields(members(record).items())


@app.command("export")
def export(
    context: typer.Context,
    *,
    first: Annotated[
        int, typer.Option("--from", min=1, metavar="N", help="The first position.")
    ] = 1,
    last: Annotated[
        int | None, typer.Option("--to", min=1, metavar="N", help="The last position.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="T", help="From the first event at this time or later.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="T", help="Up to the last event before this time.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="jsonl|csv", help="An object a line, or a table.")
    ] = "jsonl",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="By default standard output.")
    ] = None,
    route: RouteOption = None,
) -> None:
    """Write records out, without a gap, for whoever is to have them.

    JSON Lines can be verified later: `outbox audit verify --file FILE`.
    """
    run = of(context)
    if form not in {"jsonl", "csv"}:
        msg = f"--format is jsonl or csv, not {form}"
        raise CommandLineError(msg)
    chain = _table(run, route)
    if since is not None:
        first = max(first, chain.first_since(parse_since(since)) or chain.last_position() + 1)
    if until is not None:
        before = chain.last_before(parse_since(until)) or 0
        last = before if last is None else min(last, before)
    with _target(output) as stream:
        write = _csv(stream) if form == "csv" else _lines(stream)
        for page in chain.pages(first - 1):
            wanted = page if last is None else [each for each in page if each.position <= last]
            write(wanted)
            if len(wanted) < len(page):
                break


@app.command("keygen")
def keygen(
    context: typer.Context,
    *,
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the private key goes; only you may read it.")
    ],
    public_key: Annotated[Path, typer.Option(metavar="FILE", help="Where the public key goes.")],
) -> None:
    """Make a pair of keys to seal with and to check with; neither is printed."""
    from outbox.audit.signing import make_keys  # noqa: PLC0415  # an extra

    make_keys(key, public_key)
    of(context).output.line(f"{key} seals: keep it secret; {public_key} checks: hand it out")


def _table(run: Invocation, route: str | None) -> TableChain:
    """Return the trail of a route; without one, of the only database that a route names."""
    names = [route] if route is not None else list(run.settings.routes)
    found: dict[sa.URL, str] = {}
    for name in names:
        settings = run.settings.route(run.known_route(name))
        if settings.transport == "audit":
            _, options = _read(lambda: transport_of(name, settings, run.settings.url))  # noqa: B023
            assert isinstance(options, transport.Options)  # noqa: S101  # of that transport
            found.setdefault(transport.database_of(name, options), name)
        elif route is not None:
            msg = f"route {route} is no audit trail: its transport is {settings.transport!r}"
            raise CommandLineError(msg)
    if len(found) > 1:
        msg = f"there are several trails: choose by --route one of {', '.join(found.values())}"
        raise CommandLineError(msg)
    url = next(iter(found), run.settings.url)
    if url == run.settings.url:
        return TableChain(run.engine)
    return TableChain(make_engine(url, "outbox", poolclass=sa.NullPool))


def _start(chain: Chain, first: int | None, noted: Anchor | None) -> Head:
    """Return what the walk begins behind, and trusts."""
    if noted is not None:
        return noted.head
    if first is not None and first > 1:
        head = chain.head_at(first - 1)
        if head is None:
            msg = f"there is no record at position {first - 1:,} that {first:,} could follow"
            raise FailedError(msg)
        return head
    return chain.start if first is None and isinstance(chain, FileChain) else START


def _walk(
    chain: Chain,
    start: Head,
    anchors: Sequence[Anchor],
    checkpoint: Path | None,
    noted_position: int,
) -> tuple[int, Head]:
    """Verify everything behind a head; return how many records that were, and the last."""
    count, head = 0, start
    try:
        with _bar(chain, start) as advance:
            for number, page in enumerate(verified(chain, start, anchors), 1):
                count += len(page)
                head = Head(page[-1].position, page[-1].hash)
                advance(page)
                is_due = number % CHECKPOINT_PAGES == 0 and head.position > noted_position
                if checkpoint is not None and is_due:
                    write_checkpoint(checkpoint, head)
    finally:
        # What was verified before it broke, or before Ctrl-C, need not be verified again.
        # But what is noted already is evidence, if the trail broke before it.
        if checkpoint is not None and head.position > noted_position:
            write_checkpoint(checkpoint, head)
    return count, head


def _broken(finding: Finding) -> dict[str, Any]:
    return {
        "ok": False,
        "kind": finding.kind,
        "position": finding.position,
        "last_position": finding.last_position,
        "event_id": finding.event_id,
        "reason": finding.reason,
    }


def _trusted_seals(paths: list[str] | None, public_keys: list[Path] | None) -> list[Seal]:
    """Return the seals that were named, checked; none where none were."""
    if not paths:
        return []
    from outbox.audit.signing import is_signed  # noqa: PLC0415  # an extra

    return check_seals(read_all(paths), _public_keys(public_keys), is_signed)


def _public_keys(paths: list[Path] | None) -> list[bytes]:
    from outbox.audit.signing import read_public_key  # noqa: PLC0415  # an extra

    if not paths:
        msg = "name the public key of whoever seals by --public-key: anybody can make a seal"
        raise CommandLineError(msg)
    return [_read(lambda: read_public_key(path)) for path in paths]  # noqa: B023


def _only(records: Sequence[Record], event_id: str, position: int | None) -> Record:
    """Return the one record that is meant."""
    found = [each for each in records if position is None or each.position == position]
    if not found:
        msg = f"the audit trail has no event {event_id!r}" + (
            "" if position is None else f" at position {position:,}"
        )
        raise FailedError(msg)
    if len(found) > 1:
        places = ", ".join(f"{each.position} ({each.source})" for each in found)
        msg = f"several records have this id: choose by --position or --source: {places}"
        raise CommandLineError(msg)
    return found[0]


@contextmanager
def _bar(chain: Chain, start: Head) -> Iterator[Callable[[Sequence[Record]], None]]:
    """Show on a terminal how far it is; yields what is called with each page."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        total = max(chain.last_position() - start.position, 0) if console.is_terminal else None
        task = progress.add_task("verify", total=total)

        def advance(page: Sequence[Record]) -> None:
            progress.advance(task, len(page))

        yield advance


@contextmanager
def _target(path: Path | None) -> Iterator[IO[str]]:
    if path is None:
        yield sys.stdout
        return
    try:
        with path.open("w", encoding="utf-8", newline="") as stream:
            yield stream
    except OSError as exc:
        msg = f"cannot write {path}: {exc.strerror}"
        raise FailedError(msg) from exc


def _lines(stream: IO[str]) -> Callable[[Sequence[Record]], None]:
    def write(page: Sequence[Record]) -> None:
        stream.write(b"".join(map(line, page)).decode())

    return write


def _csv(stream: IO[str]) -> Callable[[Sequence[Record]], None]:
    writer = csv.DictWriter(stream, MEMBERS, lineterminator="\n")
    writer.writeheader()

    def write(page: Sequence[Record]) -> None:
        writer.writerows(to_json(each) for each in page)

    return write


def _read_json(path: Path) -> object:
    try:
        return orjson.loads(_read_bytes(path))
    except orjson.JSONDecodeError as exc:
        msg = f"{path} is no JSON: {exc}"
        raise FailedError(msg) from exc


def _read_bytes(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as exc:
        msg = f"cannot read {path}: {exc.strerror}"
        raise CommandLineError(msg) from exc


def _read(read: Callable[[], Result]) -> Result:
    try:
        return read()
    except ConfigurationError as exc:
        raise CommandLineError(str(exc)) from exc
