"""A look at a bucket that leaves nothing there: what a relay could do, were it started."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from outbox.errors import ConfigurationError, DecodeError
from outbox.transports.s3.chain import Chain
from outbox.transports.s3.entry import read_entry
from outbox.transports.s3.keys import LOG
from outbox.transports.s3.publishing import check_conditions, patience_of
from outbox.transports.s3.store import Store

if TYPE_CHECKING:
    from outbox.transports.s3.options import Options

_KEY: Final = "_probe"
"""Of an object that is never there."""


def look(options: Options, timeout: float) -> None:
    """Return where the bucket can be listed, read and written; otherwise raise `OutboxError`.

    Where there is a log, its last entry is read, and created once more, which the server has to
    refuse; so its part in keeping relays apart is looked at as well.
    """
    deadline = time.monotonic() + timeout
    with closing(Store(options, patience_of(timeout))) as store:
        chain = Chain(store, LOG)
        last = chain.last(0, deadline)
        store.get(_KEY, deadline)
        store.try_to_put(_KEY, deadline)
        entry = chain.get(last, deadline) if last else None
        if entry is None:
            return
        try:
            read_entry(entry)
        except DecodeError as exc:
            raise ConfigurationError(f"{chain.key(last)}: {exc}") from exc
        check_conditions(chain, options, last, entry, deadline)
