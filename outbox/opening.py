"""Makes the personal values of received events readable, where this process has their keys."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from outbox.keys import key_store
from outbox.sealing import has_tokens, key_ids, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from outbox.envelope import Envelope


def opener(envelopes: Iterable[Envelope]) -> Callable[[Envelope], Envelope]:
    """Return what opens each of some envelopes; their keys are asked for at once.

    What cannot be read stays as it is: this process has no key store, or the key was forgotten.
    Raises `DatabaseUnavailableError` where the store cannot tell now.
    """
    store = key_store()
    if store is None:
        return _as_it_is
    ids = {id_ for envelope in envelopes for id_ in key_ids(envelope.data)}
    if not ids:
        return _as_it_is
    keys = store.find(ids)

    def open_(envelope: Envelope) -> Envelope:
        if not has_tokens(envelope.data):
            return envelope
        return replace(envelope, data=opened(envelope.data, envelope.id, keys))

    return open_


def _as_it_is(envelope: Envelope) -> Envelope:
    return envelope
