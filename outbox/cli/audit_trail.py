"""What the commands of `outbox audit` share: their options, the trail that is meant, the keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import sqlalchemy as sa
import typer

from outbox.audit.chain import Chain, Head
from outbox.audit.store import TableChain
from outbox.cli.errors import CommandLineError, FailedError
from outbox.cli.invocation import Invocation
from outbox.engine import make_engine
from outbox.errors import ConfigurationError
from outbox.transports import audit as transport
from outbox.transports import transport_of

Result = TypeVar("Result")

RouteOption = Annotated[
    str | None,
    typer.Option("--route", metavar="R", help="The route whose trail it is, if there are several."),
]
SealOption = Annotated[
    list[str] | None,
    typer.Option(
        "--seal", metavar="PATH", help="A seal, or a folder of seals, also s3://…; repeatable."
    ),
]
PublicKeyOption = Annotated[
    list[Path] | None,
    typer.Option("--public-key", metavar="FILE", help="Whose seals are trusted; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]


def trail_of(run: Invocation, route: str | None) -> TableChain:
    """Return the trail of a route; without one, of the only database that a route names."""
    names = [route] if route is not None else list(run.settings.routes)
    found: dict[sa.URL, str] = {}
    for name in names:
        settings = run.settings.route(run.known_route(name))
        if settings.transport == "audit":
            _, options = settled(lambda: transport_of(name, settings, run.settings.url))  # noqa: B023
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


def head_before(chain: Chain, first: int) -> Head:
    """Return what a record follows; raises `FailedError` where that is not there."""
    head = chain.head_at(first - 1)
    if head is None:
        msg = f"there is no record at position {first - 1:,} that {first:,} could follow"
        raise FailedError(msg)
    return head


def require_range(first: int | None, last: int | None) -> None:
    """Raise `CommandLineError` for a range that nothing can be in."""
    if first is not None and last is not None and first > last:
        raise CommandLineError(f"--from {first} is behind --to {last}: no position is in between")


def public_keys(paths: list[Path] | None) -> list[bytes]:
    """Read the keys that are trusted; raises `CommandLineError` where none is named."""
    from outbox.audit.signing import read_public_key  # noqa: PLC0415  # an extra

    if not paths:
        msg = "name the public key of whoever seals by --public-key: anybody can make a seal"
        raise CommandLineError(msg)
    return [settled(lambda: read_public_key(path)) for path in paths]  # noqa: B023


def settled(read: Callable[[], Result]) -> Result:
    """Return what was read; what is wrong with a file or a setting is told as such."""
    try:
        return read()
    except ConfigurationError as exc:
        raise CommandLineError(str(exc)) from exc
