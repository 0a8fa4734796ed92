"""Capture on PostgreSQL: by a floor and a snapshot (see `position`; the statement tells how)."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import orjson

from outbox.errors import CaptureRestartedError, ForeignPositionError
from outbox.rows import HEADERS, SEQ, Rows
from relay.capture import Backlog
from relay.capture.connection import ReadConnection
from relay.capture.position import LatePass, Server, SnapshotPosition, read_snapshot
from relay.capture.sizing import PAGE_BYTES, Average

if TYPE_CHECKING:
    from collections.abc import Mapping

    import sqlalchemy as sa


_NO_TRANSACTION: Final = 2**64 - 1
"""No transaction has an id as high as this."""
LATE_LIMIT: Final = 2_000
"""Late rows that one page holds at most (see the statement)."""


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """The rows of one read: late ones first, then fresh ones, each by number."""

    envelopes: Rows
    start: SnapshotPosition
    """Where it was read from."""
    target: str
    """The snapshot that the late rows complete: the pass's, or else that of the read."""
    transactions: tuple[int, ...]
    """Those that the late rows belong to."""
    late_count: int
    late_is_complete: bool
    """No late row is left for another page; only then it holds fresh rows."""
    is_last: bool

    def position(self, count: int | None = None, /) -> SnapshotPosition:
        """Return the position once the first `count` events are settled, by default all.

        It is exact for each prefix. Let the start be (floor, S), the target T, and the late rows
        those that are visible in T, not in S, and numbered up to the floor.

        - Within the late rows, or at their end while the page was too small to tell whether more
          follow: they come by number, so the settled ones are those up to the last one's number,
          which is what a late pass with that cursor says.
        - After all late rows: each row visible in T up to the floor is delivered, which is what
          (floor, T) says.
        - Within the fresh rows: they come by number as well, each row visible in T above the
          floor in turn, so everything visible in T up to the last one's number is delivered.
        """
        settled = len(self.envelopes) if count is None else count
        if settled < self.late_count or not self.late_is_complete:
            return self._within_late(settled)
        floor = self.start.floor if settled == self.late_count else self._number(settled)
        return replace(self.start, floor=floor, snapshot=self.target, late=None)

    def _within_late(self, settled: int) -> SnapshotPosition:
        if settled == 0:
            return self.start
        late = LatePass(self.target, self.transactions, cursor=self._number(settled))
        return replace(self.start, late=late)

    def _number(self, settled: int) -> int:
        return self.envelopes.rows[settled - 1][SEQ]


class SnapshotCapture:
    """Reads what became visible since a position, on a connection of its own.

    A term starts with `beginning`, `now` or `position`: each makes sure that the server has an
    incarnation and ties the position to it. Take a stored position anew after any error.
    """

    def __init__(self, engine: sa.Engine, source: str) -> None:
        """Connect as the engine does, at the first call; `source` is for events that have none."""
        self._connection = ReadConnection(engine)
        self._source = source
        self._average = Average()

    def beginning(self) -> SnapshotPosition:
        """Return the position below every row."""
        return replace(self.now(), floor=0)

    def now(self) -> SnapshotPosition:
        """Return the highest number visible and its snapshot.

        What was committed before is left out; a transaction that is still open is read when it
        commits, whatever its numbers.
        """
        server = self._server()
        ((floor, snapshot),) = self._connection.rows("now")
        return SnapshotPosition(floor, snapshot, None, server)

    def position(self, stored: Mapping[str, Any], /) -> SnapshotPosition:
        """Read a stored position; one of this server is trusted whatever its incarnation.

        It was committed to the database after all that it covers, and a recovery keeps a prefix of
        the commits, so it cannot be ahead of the rows that are there.
        """
        position = read_snapshot(stored)
        server = self._server()
        if position.server.system != server.system:
            raise ForeignPositionError(
                f"the stored position was made on database server {position.server.system}, and"
                f" this is {server.system}: transaction ids mean something else here. If the"
                " database was moved here by a dump, run `outbox relay --rebase`"
            )
        return replace(position, server=server)

    def trusts(self, stored: Mapping[str, Any], /) -> bool:
        """Tell whether the server has not crashed or been replaced since the position was read."""
        return read_snapshot(stored).server == self._server()

    def next_page(self, position: SnapshotPosition, limit: int, /) -> SnapshotPage:
        """Read on from a position by one statement."""
        late = position.late
        parameters = _reading_pass(late) if late else _reading_on(position.snapshot)
        parameters |= {
            "floor": position.floor,
            "late": min(limit, LATE_LIMIT),
            "fresh": 0 if late else self._average.limit(limit),
            "bytes": PAGE_BYTES,
            "source": self._source,
        }
        while True:
            rows = self._connection.page(parameters)
            # UNION ALL promises no order; numbers up to the floor are late, and come first.
            rows.sort(key=itemgetter(SEQ))
            state = orjson.loads(rows.pop(0)[HEADERS] or b"")
            _check_server(position.server, Server(state["system"], state["incarnation"]))
            transactions = tuple(map(int, state["ended"] or ()))
            _check_origin(transactions, state["foreign_seq"], state["snapshot"])
            if not _fewer(parameters, state):
                break
        self._average.read(state["fresh_count"], state["fresh_bytes"])
        late_count = bisect_right(rows, position.floor, key=itemgetter(SEQ))
        late_is_complete = late_count < parameters["late"]
        return SnapshotPage(
            envelopes=Rows(rows),
            start=position,
            target=late.target if late else state["snapshot"],
            transactions=transactions,
            late_count=late_count,
            late_is_complete=late_is_complete,
            is_last=late is None and late_is_complete and len(rows) < parameters["fresh"],
        )

    def backlog(self, position: SnapshotPosition, /) -> Backlog:
        """Count what is visible now and comes after a position."""
        late = position.late
        parameters = _reading_on(late.target if late else position.snapshot)
        if late:
            parameters |= {"given": _array(late.transactions), "cursor": late.cursor}
        ((count, oldest_at),) = self._connection.rows(
            "backlog", parameters | {"floor": position.floor}
        )
        return Backlog(count, oldest_at)

    def close(self) -> None:
        """Close the connection; a later call opens another one."""
        self._connection.close()

    def _server(self) -> Server:
        ((system, incarnation),) = self._connection.rows("server")
        if incarnation is None:
            self._connection.run("begin_incarnation")
            ((system, incarnation),) = self._connection.rows("server")
        return Server(system, str(incarnation))


def _fewer(parameters: dict[str, Any], state: dict[str, Any]) -> bool:
    """Ask for fewer rows of a kind whose data came to more than a page takes; say whether so."""
    is_fewer = False
    for kind in ("late", "fresh"):
        count, size = state[f"{kind}_count"], state[f"{kind}_bytes"]
        if size > PAGE_BYTES and count > 1:
            # Half of them at most: one row may be as large as all others.
            parameters[kind] = max(1, min(count // 2, count * PAGE_BYTES // size))
            is_fewer = True
    return is_fewer


def _reading_on(snapshot: str) -> dict[str, Any]:
    """Late are the transactions that ended since a snapshot, with all their rows."""
    _, xmax, running = snapshot.split(":")
    return {"running": f"{{{running}}}", "beyond": xmax, "given": "{}", "cursor": 0}


def _reading_pass(late: LatePass) -> dict[str, Any]:
    """Late are the transactions of a pass, above its cursor."""
    given = _array(late.transactions)
    return {
        "running": "{}",
        "beyond": str(_NO_TRANSACTION),
        "given": given,
        "cursor": late.cursor,
    }


def _array(transactions: tuple[int, ...]) -> str:
    return f"{{{','.join(map(str, transactions))}}}"


def _check_server(known: Server, found: Server) -> None:
    if known != found:
        raise CaptureRestartedError(
            "the database server crashed, failed over or was replaced since the position was read:"
            " the position may be ahead of the rows that are there, so take the stored one again"
        )


def _check_origin(transactions: tuple[int, ...], foreign_seq: int | None, snapshot: str) -> None:
    """Refuse rows with an id that this server has not given yet: it would repeat them for ever."""
    xmax = int(snapshot.split(":")[1])
    if foreign_seq is None and all(transaction < xmax for transaction in transactions):
        return
    which = "an event" if foreign_seq is None else f"event {foreign_seq}"
    raise ForeignPositionError(
        f"{which} was written on another database server, because this one has not reached its"
        " transaction id yet. If the database was moved here by a dump, run `outbox relay --rebase`"
    )
