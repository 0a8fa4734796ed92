"""Publishing to S3: the objects of a batch side by side, then one entry of the log.

    take over ─▶ encode ─▶ store objects ─▶ create entry n ─▶ published
                               │ a failure      │ n is taken             │ no answer
                               ▼                ▼                        ▼
                          none is listed    read on: n + 1, or fenced   in doubt: the log tells

An object that no entry lists does not exist for a consumer, and the same events make the same
keys again. So whatever dies, an event is listed once, and it has one object.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final

from outbox.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    DecodeError,
    DestinationRefusedError,
    HeldBackError,
    InDoubtError,
    RecordRefusedError,
    TransientError,
)
from outbox.transport import PUBLISHED, Dead, Retry
from outbox.transports.s3.chain import Chain
from outbox.transports.s3.entry import Entry, read_entry
from outbox.transports.s3.keys import LOG
from outbox.transports.s3.layout import Architect, listing_of
from outbox.transports.s3.store import Patience, Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.envelope import Envelope
    from outbox.transport import Outcome
    from outbox.transports.s3.layout import Draft, Layout
    from outbox.transports.s3.options import Options

log = logging.getLogger(__name__)

_CONNECT_SHARE: Final = 0.08
_READ_SHARE: Final = 0.17
"""Parts of a publish's time-out that one attempt of a request may take."""
_UPLOAD_SHARE: Final = 0.65
"""The part in which objects are stored; an entry takes the rest."""
_WHOLE_SHARE: Final = 0.95
_MAX_REMEMBERED: Final = 200_000
"""Objects stored and not listed yet that a publisher remembers."""
_HELD: Final = "an earlier event of its key was not published"


class S3Publisher:
    """Publishes the batches of one route; a `TransactionalPublisher`.

    Objects are stored `concurrency` at a time. Where the time is up before all of them are, what
    was stored is remembered, and the next publish of the same events goes on from there.
    """

    def __init__(self, options: Options, timeout: float) -> None:
        self._options = options
        self._timeout = timeout
        self._store = Store(options, patience_of(timeout))
        self._chain = Chain(self._store, LOG)
        self._architect = Architect(options)
        self._pool = ThreadPoolExecutor(options.concurrency, thread_name_prefix="s3-upload")
        self._stored: dict[str, bytes] = {}
        """Key and digest of objects that no entry lists yet."""
        self._writer = uuid.uuid4().hex
        self._numbers = count()
        self._identity: str | None = None
        self._end: int | None = None
        """The last entry that this publisher knows; None before it has looked."""
        self._latest: dict[str, int] = {}

    def take_over(self, identity: str, /) -> bytes | None:
        """See `TransactionalPublisher.take_over`.

        It adds an entry to the log, by which every earlier publisher of the route finds that it
        was replaced. Raises `ConfigurationError` where the server ignores conditions of a write.
        """
        deadline = time.monotonic() + self._timeout * _WHOLE_SHARE
        self._identity = None
        try:
            self._read_on(deadline)
            progress = self._progress_of(identity, deadline)
            while True:
                number = self._next()
                latest = self._latest | {identity: number}
                entry = Entry(
                    nonce=self._nonce(), identity=identity, progress=progress, latest=latest
                )
                body = entry.to_bytes()
                if self._chain.create(number, body, deadline):
                    break
                self._read_on(deadline)
                progress = self._progress_of(identity, deadline)
            check_conditions(self._chain, self._options, number, body, deadline)
        except DecodeError as exc:
            raise ConfigurationError(str(exc)) from exc
        self._wrote(number, latest)
        self._identity = identity
        return progress

    def publish_with(self, batch: Sequence[Envelope], progress: bytes, /) -> Sequence[Outcome]:
        """See `TransactionalPublisher.publish_with`."""
        if self._identity is None:
            raise InDoubtError("the route was not taken over, or by another relay since")
        started_at = time.monotonic()
        layout = self._architect.lay_out(batch)
        errors: dict[int, TransientError | RecordRefusedError] = dict(layout.dead)
        if not errors:
            errors |= self._upload(layout.objects, started_at + self._timeout * _UPLOAD_SHARE)
        if errors:
            return _none_of(batch, errors)
        deadline = started_at + self._timeout * _WHOLE_SHARE
        try:
            self._append(batch, layout, frozenset(), deadline, progress)
        except BrokerUnavailableError as exc:
            raise InDoubtError(f"it is not known whether the log was written: {exc}") from exc
        except DestinationRefusedError as exc:
            return [Retry(exc)] * len(batch)
        return [PUBLISHED] * len(batch)

    def publish(self, batch: Sequence[Envelope], /) -> Sequence[Outcome]:
        """See `Publisher.publish`."""
        if not batch:
            return []
        started_at = time.monotonic()
        layout = self._architect.lay_out(batch)
        errors: dict[int, TransientError | RecordRefusedError] = dict(layout.dead)
        errors |= self._upload(layout.objects, started_at + self._timeout * _UPLOAD_SHARE)
        outcomes = _fenced(batch, errors)
        left_out = frozenset(i for i, outcome in enumerate(outcomes) if outcome != PUBLISHED)
        if len(left_out) == len(batch):
            return outcomes
        deadline = started_at + self._timeout * _WHOLE_SHARE
        try:
            if self._end is None:
                self._read_on(deadline)
            self._append(batch, layout, left_out, deadline, None)
        except (TransientError, DecodeError) as exc:
            error = DestinationRefusedError(str(exc)) if isinstance(exc, DecodeError) else exc
            return [Retry(error) if outcome == PUBLISHED else outcome for outcome in outcomes]
        return outcomes

    def close(self) -> None:
        """See `Publisher.close`."""
        self._store.close()
        self._pool.shutdown()

    def _upload(
        self, drafts: Sequence[Draft], deadline: float
    ) -> dict[int, TransientError | RecordRefusedError]:
        """Store objects; return the errors of the events whose objects are not stored."""
        over = threading.Event()
        errors: dict[int, TransientError | RecordRefusedError] = {}
        for draft, error in zip(
            drafts,
            self._pool.map(lambda draft: self._upload_one(draft, deadline, over), drafts),
            strict=True,
        ):
            if error is not None:
                errors |= dict.fromkeys(draft.indexes, error)
        return errors

    def _upload_one(
        self, draft: Draft, deadline: float, over: threading.Event
    ) -> TransientError | RecordRefusedError | None:
        body = self._architect.body(draft)
        draft.stored_size = len(body)
        digest = hashlib.blake2b(body, digest_size=16).digest()
        if self._stored.get(draft.key) == digest:
            return None
        if over.is_set():
            # All fails for the same cause, which the event says that failed by it.
            return HeldBackError("another object of the batch could not be stored")
        if time.monotonic() > deadline - self._timeout * (_CONNECT_SHARE + _READ_SHARE):
            return HeldBackError(
                "the time of a publish was too short; it goes on with the next one"
            )
        try:
            self._store.put(draft.key, body, self._architect.content_type, deadline)
        except (BrokerUnavailableError, DestinationRefusedError) as exc:
            over.set()
            return exc
        except RecordRefusedError as exc:
            return exc
        self._stored[draft.key] = digest
        return None

    def _append(
        self,
        batch: Sequence[Envelope],
        layout: Layout,
        left_out: frozenset[int],
        deadline: float,
        progress: bytes | None,
    ) -> None:
        """List what was stored, in the order of the batch, behind all that the log has."""
        listing = listing_of(batch, layout, left_out)
        nonce = self._nonce()
        while True:
            number, latest = self._next(), self._latest
            if self._identity is not None and progress is not None:
                latest = latest | {self._identity: number}
            entry = replace(
                listing,
                nonce=nonce,
                identity=self._identity,
                progress=progress,
                latest=latest,
            )
            if self._chain.create(number, entry.to_bytes(), deadline):
                self._wrote(number, latest)
                break
            self._read_on(deadline)
        for key, _ in listing.objects:
            self._stored.pop(key, None)

    def _read_on(self, deadline: float) -> None:
        """Find the log's end; raise `InDoubtError` where another relay took the route over."""
        known = 0 if self._end is None else self._end
        end = self._chain.last(known, deadline)
        latest: dict[str, int] = {}
        if end:
            stored = self._chain.get(end, deadline)
            if stored is None:
                raise BrokerUnavailableError(f"{self._chain.key(end)} was deleted just now")
            latest = dict(read_entry(stored).latest)
        own = self._identity
        if own is not None and latest.get(own) != self._latest.get(own):
            self._identity = None
            raise InDoubtError("another relay took the route over")
        self._end, self._latest = end, latest

    def _progress_of(self, identity: str, deadline: float) -> bytes | None:
        number = self._latest.get(identity)
        stored = None if number is None else self._chain.get(number, deadline)
        return None if stored is None else read_entry(stored).progress

    def _next(self) -> int:
        return (self._end or 0) + 1

    def _wrote(self, number: int, latest: dict[str, int]) -> None:
        self._end, self._latest = number, latest
        if len(self._stored) > _MAX_REMEMBERED:
            self._stored.clear()

    def _nonce(self) -> str:
        return f"{self._writer}-{next(self._numbers)}"


def patience_of(timeout: float) -> Patience:
    """Return how long one attempt of a request may take where all have a time-out together."""
    return Patience(timeout * _CONNECT_SHARE, timeout * _READ_SHARE)


def check_conditions(
    chain: Chain, options: Options, number: int, body: bytes, deadline: float
) -> None:
    """Store an entry that is there a second time.

    Raises `ConfigurationError` where the server lets that happen, so ignores conditions of a write.
    """
    if not chain.honours_conditions(number, body, deadline):
        raise ConfigurationError(
            f"the server of the bucket {options.bucket!r} ignores If-None-Match of a PUT, so"
            " nothing would keep two relays apart; use one that honours it"
        )


def _fenced(
    batch: Sequence[Envelope], errors: dict[int, TransientError | RecordRefusedError]
) -> list[Outcome]:
    """Return outcomes by which nothing of a key follows an event of it that failed."""
    held: set[str] = set()
    outcomes: list[Outcome] = []
    for index, envelope in enumerate(batch):
        key, error = envelope.partition_key, errors.get(index)
        if isinstance(error, RecordRefusedError) and key not in held:
            outcomes.append(Dead(error))
        elif key in held:
            outcomes.append(Retry(HeldBackError(_HELD)))
        elif isinstance(error, TransientError):
            outcomes.append(Retry(error))
        else:
            outcomes.append(PUBLISHED)
        if error is not None and key is not None:
            held.add(key)
    return outcomes


def _none_of(
    batch: Sequence[Envelope], errors: dict[int, TransientError | RecordRefusedError]
) -> list[Outcome]:
    """Return outcomes of a batch that is not listed, for these errors of some of its events."""
    outcomes: list[Outcome] = []
    for index in range(len(batch)):
        error = errors.get(index, HeldBackError("another event of its batch could not be stored"))
        outcomes.append(Dead(error) if isinstance(error, RecordRefusedError) else Retry(error))
    return outcomes
