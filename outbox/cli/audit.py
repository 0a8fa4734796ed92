"""`outbox audit`: verify the trail, seal it, prove what is in it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from outbox.audit.chain import (
    LAST_POSITION,
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
from outbox.audit.export import FileChain
from outbox.audit.places import place_of, read_all
from outbox.audit.record import Record
from outbox.audit.seal import Seal, check_seals, make_seal
from outbox.cli import audit_records
from outbox.cli.audit_trail import (
    JsonOption,
    PublicKeyOption,
    RouteOption,
    SealOption,
    head_before,
    public_keys,
    require_range,
    settled,
    trail_of,
)
from outbox.cli.errors import FAILED, CommandLineError, FailedError
from outbox.cli.invocation import of, require_command
from outbox.cli.output import counted, visible
from outbox.errors import ConfigurationError

app = typer.Typer(
    help="Verify the audit trail, seal it, prove what is in it.",
    invoke_without_command=True,
    callback=require_command,
)
app.command("prove")(audit_records.prove_record)
app.command("check-proof")(audit_records.check)
app.command("export")(audit_records.export)

CHECKPOINT_PAGES: Final = 20
"""Pages between two writes of a checkpoint."""


@app.command("verify")
def verify(
    context: typer.Context,
    *,
    route: RouteOption = None,
    first: Annotated[
        int | None,
        typer.Option(
            "--from",
            min=1,
            max=LAST_POSITION,
            metavar="N",
            help="Trust what stands before position N.",
        ),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            "--to",
            min=1,
            max=LAST_POSITION,
            metavar="N",
            help="The last position; what follows is left out.",
        ),
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
    require_range(first, last)
    seals = _trusted_seals(seal, public_key)
    anchors = [each.anchor for each in seals]
    noted = None if checkpoint is None else settled(lambda: read_checkpoint(checkpoint))
    if noted is not None and noted.head != START:
        anchors.append(noted)
    chain: Chain = FileChain(file) if file else trail_of(run, route)
    _require_reach(chain, noted, last)
    try:
        start = starting_at(chain, _start(chain, first, noted), anchors)
        walk = Walk(chain, start, checkpoint, noted)
        walk.run(anchors, last)
    except ChainBrokenError as exc:
        if as_json:
            run.output.json(_broken(exc.finding))
            raise typer.Exit(FAILED) from None
        if file is None or exc.finding.kind != "truncated":
            raise
        msg = f"{exc}; an export that was to end there is verified with --to"
        raise FailedError(msg) from exc
    count, head = walk.count, walk.head
    if first is not None and not count:
        raise FailedError(f"there is no record at position {first:,}: the trail ends before it")
    sealed = [each for each in seals if chain.start.position <= each.last_position <= head.position]
    result = {
        "ok": True,
        "records": count,
        "first_position": start.position + 1 if count else None,
        "last_position": head.position,
        "last_hash": head.hash.hex(),
        "sealed_position": sealed[-1].last_position if sealed else None,
    }
    if as_json:
        run.output.json(result)
        return
    run.output.line(
        f"intact: {counted(count, 'record')}"
        + (f", positions {start.position + 1:,} to {head.position:,}" if count else "")
    )
    if chain.start != START:
        begin = f"{file} begins at position {chain.start.position + 1:,}"
        run.output.line(f"{begin}: what stood before is not in it", "dim")
    if sealed:
        by = f"(seal {sealed[-1].number})"
        run.output.line(f"sealed up to position {sealed[-1].last_position:,} {by}")
    else:
        which = "no seal ends in it" if seals else "no seal was given"
        note = f"{which}: what is missing at the end, or was computed anew, is not noticed"
        run.output.line(note, "dim")


@app.command("seal")
def seal(
    context: typer.Context,
    *,
    key: Annotated[Path, typer.Option(metavar="FILE", help="The private key.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="A folder of seals, or a file of one, not there yet; or s3://BUCKET/PREFIX.",
        ),
    ],
    former: Annotated[
        str | None, typer.Option(metavar="FILE", help="The seal before, where --to is a file.")
    ] = None,
    public_key: PublicKeyOption = None,
    first: Annotated[
        int | None,
        typer.Option(
            "--from",
            min=1,
            max=LAST_POSITION,
            metavar="N",
            help="The first seal of a series: begin here.",
        ),
    ] = None,
    route: RouteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify what came since the last seal, and sign it.

    Keep seals where whoever can change the table cannot.
    """
    from outbox.audit.signing import is_exposed, is_signed, read_private_key  # noqa: PLC0415  # an extra

    run = of(context)
    signer = settled(lambda: read_private_key(key))
    if is_exposed(key):
        advice = f"chmod 600 {key}"
        typer.echo(
            visible(f"warning: others than its owner may use the private key {key}: {advice}"),
            err=True,
        )
    place = settled(lambda: place_of(to))
    before = settled(lambda: read_all([former])) if former is not None else place.series()
    if before and first is not None:
        msg = "--from begins another series of seals: name a new place by --to"
        raise CommandLineError(msg)
    # A seal vouches for nothing by the key that it names itself.
    keys = [signer.public_key, *(public_keys(public_key) if public_key else ())]
    ordered = check_seals(before, keys, is_signed)
    chain = trail_of(run, route)
    last = ordered[-1] if ordered else None
    start = last.head if last else chain.start if first is None else head_before(chain, first)
    try:
        with _spared_collector(), _bar(chain, start) as advance:
            made = make_seal(chain, last, signer, start=start, on_page=advance)
    except ChainBrokenError as exc:
        if not as_json:
            raise
        run.output.json(_broken(exc.finding))
        raise typer.Exit(FAILED) from None
    name = place.write(made)
    if as_json:
        run.output.json({"ok": True, "file": name, **made.to_json()})
    else:
        run.output.line(
            f"{name}: positions {made.first_position:,} to {made.last_position:,} are sealed"
        )


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

    if key.resolve() == public_key.resolve():
        msg = "--key and --public-key name one file: each key has its own"
        raise CommandLineError(msg)
    make_keys(key, public_key)
    of(context).output.line(f"{key} seals: keep it secret; {public_key} checks: hand it out")


def _require_reach(chain: Chain, noted: Anchor | None, last: int | None) -> None:
    """Raise `CommandLineError` where all that could be verified is behind `last`."""
    if last is None:
        return
    if last <= chain.start.position:
        begin = chain.start.position + 1
        raise CommandLineError(f"the export begins at position {begin:,}, behind --to {last}")
    if noted is not None and noted.head.position > last:
        position = noted.head.position
        raise CommandLineError(f"the checkpoint is at position {position:,}, behind --to {last}")


def _start(chain: Chain, first: int | None, noted: Anchor | None) -> Head:
    """Return what the walk begins behind, and trusts."""
    if noted is not None and noted.head != START:
        return noted.head
    return chain.start if first is None else head_before(chain, first)


class Walk:
    """How far the trail was verified, noted in a checkpoint now and then."""

    def __init__(
        self, chain: Chain, start: Head, checkpoint: Path | None, noted: Anchor | None
    ) -> None:
        self._chain = chain
        self._start = start
        self._checkpoint = checkpoint
        self._noted_position = noted.head.position if noted else 0
        self.count = 0
        self.head = start
        """The last record that was verified."""

    def run(self, anchors: Sequence[Anchor], last_position: int | None) -> None:
        """Verify everything behind the start; what was verified need not be verified again."""
        try:
            self._run(anchors, last_position)
        except BaseException:
            # It broke, or Ctrl-C: a file that cannot be written is not to hide that.
            with suppress(ConfigurationError):
                self._note()
            raise
        self._note()

    def _run(self, anchors: Sequence[Anchor], last_position: int | None) -> None:
        pages = verified(self._chain, self._start, anchors, last_position)
        with _spared_collector(), _bar(self._chain, self._start) as advance:
            for number, page in enumerate(pages, 1):
                self.count += len(page)
                self.head = Head(page[-1].position, page[-1].hash)
                advance(page)
                if number % CHECKPOINT_PAGES == 0:
                    self._note()

    def _note(self) -> None:
        # What is noted already is evidence, if the trail broke before it.
        if self._checkpoint is not None and self.head.position > self._noted_position:
            write_checkpoint(self._checkpoint, self.head)


def _broken(finding: Finding) -> dict[str, Any]:
    return {
        "ok": False,
        "kind": finding.kind,
        "position": finding.position,
        "last_position": finding.last_position,
        "event_id": finding.event_id,
        "reason": finding.reason,
    }


def _trusted_seals(paths: list[str] | None, key_paths: list[Path] | None) -> list[Seal]:
    """Return the seals that were named, checked; none where none were."""
    if not paths:
        return []
    from outbox.audit.signing import is_signed  # noqa: PLC0415  # an extra

    seals = settled(lambda: read_all(paths))
    return check_seals(seals, public_keys(key_paths), is_signed)


@contextmanager
def _spared_collector() -> Iterator[None]:
    """Let Python look seldom for cycles, which records are in none of: a third of the time."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _bar(chain: Chain, start: Head) -> Iterator[Callable[[Sequence[Record]], None]]:
    """Show on a terminal how far it is; yields what is called with each page."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        total = (
            max(chain.size() - start.position + chain.start.position, 0)
            if console.is_terminal
            else None
        )
        task = progress.add_task("verify", total=total)

        def advance(page: Sequence[Record]) -> None:
            progress.advance(task, len(page))

        yield advance
