"""`outbox personal`: the keys of personal data, and what it means to forget somebody."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
import typer

from outbox import keys
from outbox.cli.errors import CommandLineError, FailedError
from outbox.cli.invocation import Invocation, of, require_command
from outbox.cli.letter_choice import YesOption
from outbox.cli.output import counted
from outbox.errors import ConfigurationError
from outbox.keys import TableKeyStore

app = typer.Typer(
    help="Forget a person, and change the master key.",
    callback=require_command,
    invoke_without_command=True,
)


def forget(
    context: typer.Context,
    subject: Annotated[
        str, typer.Argument(metavar="SUBJECT", help="What identifies the person in the events.")
    ],
    *,
    yes: YesOption = False,
) -> None:
    """Delete the key of a person's data: nobody can read it from then on, in any copy.

    Events, topics, files and the audit trail stay as they are. It cannot be undone. The key is
    looked for in outbox_personal_key; a key store of your own has a forget of its own.
    """
    run = of(context)
    if not yes:
        run.confirm(f"Make the personal data of {subject} unreadable, for good?")
    with keys.engine_of(run.settings, poolclass=sa.NullPool).begin() as connection:
        count = keys.delete_key(connection, subject)
    if not count:
        msg = (
            f"there is no key of {subject!r} in outbox_personal_key: nothing personal was emitted,"
            " it is forgotten, or the application keeps its keys in another store"
        )
        raise FailedError(msg)
    run.output.line(f"{subject} is forgotten: the key is deleted")


@app.command("rewrap")
def rewrap(context: typer.Context) -> None:
    """Wrap all keys by the present master key, so that the former ones can be given up."""
    run = of(context)
    count = require_store(run).rewrap()
    run.output.line(f"{counted(count, 'key')} wrapped anew")


def store_of(run: Invocation, **options: Any) -> TableKeyStore | None:
    """Return the key store of the settings; None where they have no master key.

    `options` are for its engine.
    """
    try:
        return keys.store_of(run.settings, **options)
    except ConfigurationError as exc:
        raise CommandLineError(f"personal: {exc}") from exc


def require_store(run: Invocation) -> TableKeyStore:
    """Return it, or raise `CommandLineError`."""
    store = store_of(run, poolclass=sa.NullPool)
    if store is None:
        msg = "the settings have no personal.master_key: set OUTBOX_PERSONAL__MASTER_KEY"
        raise CommandLineError(msg)
    return store
