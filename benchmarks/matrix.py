"""The matrix of docs/guide/transports.md: what each transport guarantees, and how fast it is here.

What it guarantees is what the classes of the contract suite declare, each of which fails where that
is not so; `benchmarks.page` writes it into the page, beside the figures of `benchmarks.transports`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from outbox.bench.tables import Table
from tests.contract.test_activemq import TestActiveMq, TestActiveMqQueue
from tests.contract.test_kafka import TestKafka, TestKafkaExactlyOnce
from tests.contract.test_memory import TestMemory, TestMemoryThatWaitsUntilGroupsAreDone
from tests.contract.test_s3 import TestS3, TestS3Lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outbox.testing import Features, PublisherContract

CONTRACTS: Final[Sequence[type[PublisherContract]]] = (
    TestKafkaExactlyOnce,
    TestKafka,
    TestActiveMq,
    TestActiveMqQueue,
    TestS3,
    TestS3Lines,
    TestMemoryThatWaitsUntilGroupsAreDone,
    TestMemory,
)
"""Of the transports of this package, each under its own suite."""
TITLES: Final = (
    "transport",
    "order",
    "after a crash of the relay",
    "in an outage",
    "restarted, it",
    "groups",
    "a new group gets",
    "published/s",
    "received/s",
)
OF_ALL: Final = ("of a key", "waits, loses nothing")
"""Order, and what an outage does: the suite asks the same of every transport."""


_NEW_GROUPS: Final = {
    "everything": "everything",
    "the rest": "what is left",
    "refused": "nothing: settings name it first",
}


def matrix(report: Mapping[str, Any] | None) -> Table:
    """Return a row for each transport; without figures where there is no report."""
    contenders = {} if report is None else report["series"][0]["contenders"]
    rows = [_row(each.features, contenders.get(each.features.name)) for each in CONTRACTS]
    return Table(TITLES, rows, left=7)


def _row(features: Features, told: Mapping[str, Any] | None) -> Sequence[str]:
    order, outage = OF_ALL
    figures = {} if told is None else told["median"]
    return (
        features.name,
        order,
        "each event once" if features.delivery == "exactly-once" else "some events again",
        outage,
        "has all it stored" if features.survives_restart else "is empty",
        "several" if features.has_groups else "one",
        _NEW_GROUPS[features.new_groups],
        *(_rate(figures.get(name)) for name in ("published_per_second", "received_per_second")),
    )


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
