from __future__ import annotations

from outbox.transports.kafka.rest import LONGEST, RETRY_SECONDS, SHORTEST, Rest


def test_a_broker_that_completes_its_transactions_in_time_is_given_no_rest() -> None:
    rest = Rest()
    for _ in range(100):
        rest.after(RETRY_SECONDS / 2)
    assert rest.seconds == 0


def test_the_rest_grows_while_transactions_are_turned_back_and_is_bounded() -> None:
    rest = Rest()
    found = []
    for _ in range(6):
        rest.after(RETRY_SECONDS)
        found.append(rest.seconds)
    assert found == [SHORTEST, 2 * SHORTEST, 4 * SHORTEST, 8 * SHORTEST, LONGEST, LONGEST]


def test_the_rest_shrinks_slowly_and_ends() -> None:
    rest = Rest()
    for _ in range(6):
        rest.after(RETRY_SECONDS)
    rest.after(RETRY_SECONDS / 2)
    assert 0.9 * LONGEST < rest.seconds < LONGEST
    for _ in range(100):
        rest.after(RETRY_SECONDS / 2)
    assert rest.seconds == 0
