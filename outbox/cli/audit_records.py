"""`outbox audit prove`, `check-proof` and `export`: records for those who have no database."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from outbox.audit.chain import LAST_POSITION, Chain
from outbox.audit.export import line
from outbox.audit.places import read_all
from outbox.audit.proof import ProofError, check_proof, prove
from outbox.audit.record import MEMBERS, Record, digest, members, to_json
from outbox.audit.seal import Seal, SealError, check_seals
from outbox.cli.audit_trail import (
    JsonOption,
    PublicKeyOption,
    RouteOption,
    SealOption,
    require_range,
    settled,
    trail_of,
)
from outbox.cli.audit_trail import public_keys as keys_of
from outbox.cli.cells import csv_line
from outbox.cli.errors import FAILED, CommandLineError, FailedError
from outbox.cli.files import open_whole
from outbox.cli.invocation import of
from outbox.cli.output import json_text
from outbox.cli.times import parse_since
from outbox.errors import OutboxError
from outbox.jsontext import read_strictly


def prove_record(
    context: typer.Context,
    event_id: Annotated[str, typer.Argument(metavar="ID", help="Of the event.")],
    *,
    seal: SealOption = None,
    source: Annotated[
        str | None, typer.Option(metavar="S", help="Of the event, where several have this id.")
    ] = None,
    position: Annotated[
        int | None,
        typer.Option(min=1, max=LAST_POSITION, metavar="N", help="Where one event is there twice."),
    ] = None,
    public_key: PublicKeyOption = None,
    route: RouteOption = None,
) -> None:
    """Print the proof that an event is in the sealed trail, as JSON for a third party."""
    run = of(context)
    chain = trail_of(run, route)
    record = _only(chain.with_id(event_id, source), event_id, position)
    if not seal:
        msg = "name the seals by --seal: a proof leads to one of them"
        raise CommandLineError(msg)
    covering = [
        each
        for each in settled(lambda: read_all(seal))
        if each.first_position <= record.position <= each.last_position
    ]
    if not covering:
        msg = f"position {record.position:,} is in none of these seals: `outbox audit seal` first"
        raise FailedError(msg)
    run.output.json(_proof(chain, record, covering, public_key))


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
    keys = keys_of(public_key)
    found = _read_json(file)
    own = None if data is None else digest(content_type, _read_bytes(data))
    try:
        proven = check_proof(found, keys, is_signed)
        record = proven.record
        _require_data(record, own, f"{data} as {content_type}")
    except ProofError as exc:
        if not as_json:
            raise
        run.output.json({"ok": False, "reason": str(exc)})
        raise typer.Exit(FAILED) from None
    if as_json:
        run.output.json({"ok": True, "record": to_json(record), "seal": proven.seal.to_json()})
        return
    run.output.line(f"proven: sealed at {proven.seal.sealed_at} by seal {proven.seal.number}")
    run.output.fields(members(record).items())


def export(
    context: typer.Context,
    *,
    first: Annotated[
        int,
        typer.Option("--from", min=1, max=LAST_POSITION, metavar="N", help="The first position."),
    ] = 1,
    last: Annotated[
        int | None,
        typer.Option("--to", min=1, max=LAST_POSITION, metavar="N", help="The last position."),
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
    require_range(first, last)
    earliest, latest = (None if each is None else parse_since(each) for each in (since, until))
    if earliest is not None and latest is not None and earliest > latest:
        raise CommandLineError(f"--since {since} is later than --until {until}")
    chain = trail_of(run, route)
    end = chain.last_position()
    if first > max(end, 1):
        raise FailedError(f"there is no record at position {first:,}: the trail ends at {end:,}")
    asked = 0 if last is None else last
    if earliest is not None:
        first = max(first, chain.first_since(earliest) or end + 1)
    if latest is not None:
        before = chain.last_before(latest) or 0
        last = before if last is None else min(last, before)
    holes = _Holes(first)
    with nullcontext(sys.stdout) if output is None else open_whole(output) as stream:
        write = _csv(stream) if form == "csv" else _lines(stream)
        # From the start all there is, also what stands where nothing can be: it is evidence.
        for page in chain.pages(None if first == 1 else first - 1):
            wanted = page if last is None else [each for each in page if each.position <= last]
            write(wanted)
            holes.look(wanted)
            if len(wanted) < len(page):
                break
    if holes.first is not None:
        msg = (
            f"the records are written, but not without a gap: {holes.first} (`outbox audit verify`)"
        )
        raise FailedError(msg)
    if latest is None and holes.last < asked:
        raise FailedError(f"the records are written, but the trail ends at {holes.last:,}")


def _proof(
    chain: Chain, record: Record, seals: Sequence[Seal], public_key: list[Path] | None
) -> dict[str, Any]:
    """Return the proof by the first seal of which there is one; raises why the last has none."""
    from outbox.audit.signing import is_signed  # noqa: PLC0415  # an extra

    problem: OutboxError | None = None
    for seal in seals:
        try:
            if public_key:
                check_seals([seal], keys_of(public_key), is_signed)
            return prove(chain, record, seal)
        except (ProofError, SealError) as exc:
            problem = exc
    assert problem is not None  # noqa: S101  # there is a seal
    raise problem


def _require_data(record: Record, own: bytes | None, name: str) -> None:
    """Raise `ProofError` where data are not those of the record."""
    if own not in {None, record.data_digest}:
        raise ProofError(f"the proof holds, but {name} is not the data of the event")


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


class _Holes:
    """The first place where positions do not follow each other."""

    def __init__(self, first: int) -> None:
        self.last = first - 1
        self.first: str | None = None

    def look(self, page: Sequence[Record]) -> None:
        for record in page:
            if record.position != self.last + 1 and self.first is None:
                self.first = f"position {record.position:,} follows {self.last:,}"
            self.last = record.position


def _lines(stream: IO[str]) -> Callable[[Sequence[Record]], None]:
    def write(page: Sequence[Record]) -> None:
        if stream.isatty():
            stream.writelines(json_text(to_json(each)) + "\n" for each in page)
        else:
            stream.write(b"".join(map(line, page)).decode())

    return write


def _csv(stream: IO[str]) -> Callable[[Sequence[Record]], None]:
    stream.write(csv_line(MEMBERS) + "\n")

    def write(page: Sequence[Record]) -> None:
        for each in page:
            found = to_json(each)
            stream.write(csv_line(found[name] for name in MEMBERS) + "\n")

    return write


def _read_json(path: Path) -> object:
    try:
        return read_strictly(_read_bytes(path))
    except ValueError as exc:
        msg = f"{path} is no JSON of a proof: {exc}"
        raise FailedError(msg) from exc


def _read_bytes(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as exc:
        msg = f"cannot read {path}: {exc.strerror}"
        raise CommandLineError(msg) from exc
