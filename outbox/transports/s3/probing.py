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


def probe_bucket(options: Options, timeout: float) -> None:
    """Return where the bucket can be listed, read and written; otherwise raise `OutboxError`.

    Where there is a log, an entry is read, and created once more, which the server has to refuse;
    so its part in keeping relays apart is looked at as well. Any entry will do: to find the last
    one of a long log takes longer than a look may.
    """
    deadline = time.monotonic() + timeout
    with closing(Store(options, patience_of(timeout))) as store:
        chain = Chain(store, LOG)
        numbers = chain.after(0, deadline)
        store.get(_KEY, deadline)
        store.try_to_put(_KEY, deadline)
        if not numbers:
            return
        number = numbers[-1]
        entry = chain.get(number, deadline)
        if entry is None:  # deleted meanwhile
            return
        try:
            read_entry(entry)
        except DecodeError as exc:
            raise ConfigurationError(f"{chain.key(number)}: {exc}") from exc
        check_conditions(chain, options, number, entry, deadline)
