"""Kills without end, under writers without a pause: what a consumer of Kafka sees afterwards.

Each kill, each restart of the broker and each relay that woke too late is counted; so are the
events. `-s` shows the figures.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import pytest

from tests.killed_relay import ONCE, places_of
from tests.soaking import Deeds, Fleet, Load, Tally, freeze_at, kill_at, settle, tally
from tests.waiting import eventually

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    import sqlalchemy as sa

    from tools.servers import KafkaServer

STEADY = "steady"
VICTIMS = ("first", "second")


@dataclass(frozen=True)
class Plan:
    """What is to be done to the relays, for each of the victims' routes together."""

    kills_at_each_step: int
    zombies: int
    broker_kills: int
    seconds: float


SMALL = Plan(kills_at_each_step=2, zombies=1, broker_kills=1, seconds=100)
FULL = Plan(kills_at_each_step=31, zombies=12, broker_kills=6, seconds=850)


@dataclass(frozen=True)
class Result:
    deeds: Deeds
    tallies: dict[str, Tally]


def soak(engine: sa.Engine, server: KafkaServer, folder: Path, delivery: str, plan: Plan) -> Result:
    deeds, load = Deeds(), Load(engine)
    started = time.monotonic()
    with ExitStack() as stack:
        fleet = Fleet(engine, server.bootstrap_servers, delivery, folder)
        stack.callback(fleet.close)
        for route in (*VICTIMS, STEADY):
            fleet.add(route)
        with load.running(), ThreadPoolExecutor(len(VICTIMS)) as pool:
            steady = fleet.start(STEADY)
            fleet.await_publishing(STEADY, steady)
            parts = split(tortures(delivery, plan))
            done = [
                pool.submit(torture, fleet, route, part, deeds)
                for route, part in zip(VICTIMS, parts, strict=True)
            ]
            for number in range(plan.broker_kills):
                share = sum(map(len, parts)) * (number + 0.5) / plan.broker_kills
                eventually(lambda: is_due(deeds, share, done), plan.seconds)  # noqa: B023
                server.kill()
                server.start()
                deeds.broker_kills += 1
                fleet.await_publishing(STEADY, steady)
            for future in done:
                future.result()
        seconds = time.monotonic() - started
        assert steady.end(signal.SIGTERM) == 0, "it did not outlive the broker's restarts"
        settle(fleet, fleet.routes)
        committed = load.committed()
        tallies = {route: tally(committed, fleet.arrived(route)) for route in fleet.routes}
        raw = sum(
            len(ids)
            for route in fleet.routes
            for ids in fleet.arrived(route, "read_uncommitted").values()
        )
    sys.stdout.write(
        f"\n{delivery}: {deeds.kills.total()} relays killed {dict(sorted(deeds.kills.items()))},"
        f" {deeds.broker_kills} brokers killed, {deeds.zombies.total()} zombies"
        f" {dict(sorted(deeds.zombies.items()))}; {seconds:.0f} s,"
        f" {sum(map(len, committed.values()))} events committed,"
        f" {load.rolled_back_count} transactions rolled back,"
        f" {raw - sum(found.arrived for found in tallies.values())} records taken back;"
        f" {tallies}\n"
    )
    return Result(deeds, tallies)


def tortures(delivery: str, plan: Plan) -> list[tuple[str, int]]:
    """Steps, each with 0 for a kill or the number of relays of which the last one is not frozen."""
    kills = [(step, 0) for step in places_of(delivery) for _ in range(plan.kills_at_each_step)]
    steps = cycle(step for step in places_of(delivery) if step not in ONCE)
    zombies = [(next(steps), 2 + number % 2) for number in range(plan.zombies)]
    random.shuffle(kills)
    # Between them, so that the broker may fail in the middle of both.
    for number, zombie in enumerate(zombies):
        kills.insert((number + 1) * len(kills) // (len(zombies) + 1), zombie)
    return kills


def split(items: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    return [items[number :: len(VICTIMS)] for number in range(len(VICTIMS))]


def torture(fleet: Fleet, route: str, steps: list[tuple[str, int]], deeds: Deeds) -> None:
    for step, relay_count in steps:
        if relay_count:
            freeze_at(fleet, route, step, relay_count, deeds)
        else:
            kill_at(fleet, route, step, deeds)


def is_due(deeds: Deeds, count: float, done: list[Future[None]]) -> bool:
    for future in done:
        if future.done():
            future.result()
    return deeds.kills.total() >= count or all(future.done() for future in done)


def expect_done(deeds: Deeds, delivery: str, plan: Plan) -> None:
    for step in places_of(delivery):
        assert deeds.kills[step] >= plan.kills_at_each_step
    assert deeds.zombies.total() >= plan.zombies
    assert deeds.broker_kills == plan.broker_kills


def expect_each_once(result: Result) -> None:
    for found in result.tallies.values():
        assert found == Tally(found.arrived, lost=0, repeated=0, unknown=0, disordered=0)


@pytest.mark.timeout(240)
def test_kills_at_each_step_neither_lose_nor_repeat_nor_reorder_anything(
    postgres_engine: sa.Engine, own_kafka: KafkaServer, tmp_path: Path
) -> None:
    result = soak(postgres_engine, own_kafka, tmp_path, "exactly-once", SMALL)
    expect_done(result.deeds, "exactly-once", SMALL)
    expect_each_once(result)


@pytest.mark.parametrize(("step", "relay_count"), [("flush", 2), ("commit", 3)])
def test_a_relay_that_was_frozen_longer_than_its_lease_is_turned_away_and_stands_by(
    postgres_engine: sa.Engine, kafka_server: str, tmp_path: Path, step: str, relay_count: int
) -> None:
    """Of two or three relays, all but the last are frozen with a transaction in their hands."""
    deeds, load = Deeds(), Load(postgres_engine)
    with ExitStack() as stack:
        fleet = Fleet(postgres_engine, kafka_server, "exactly-once", tmp_path)
        stack.callback(fleet.close)
        fleet.add("kafka")
        with load.running():
            freeze_at(fleet, "kafka", step, relay_count, deeds)
        settle(fleet, ["kafka"])
        committed = load.committed()
        assert deeds.zombies.total() == relay_count - 1
        assert fleet.arrived("kafka") == committed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hundreds_of_kills_neither_lose_nor_repeat_nor_reorder_anything(
    postgres_engine: sa.Engine, own_kafka: KafkaServer, tmp_path: Path
) -> None:
    result = soak(postgres_engine, own_kafka, tmp_path, "exactly-once", FULL)
    expect_done(result.deeds, "exactly-once", FULL)
    assert result.deeds.kills.total() >= 200
    expect_each_once(result)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hundreds_of_kills_at_least_once_repeat_but_lose_nothing(
    postgres_engine: sa.Engine, own_kafka: KafkaServer, tmp_path: Path
) -> None:
    plan = Plan(kills_at_each_step=42, zombies=12, broker_kills=6, seconds=850)
    result = soak(postgres_engine, own_kafka, tmp_path, "at-least-once", plan)
    expect_done(result.deeds, "at-least-once", plan)
    for found in result.tallies.values():
        assert (found.lost, found.unknown, found.disordered) == (0, 0, 0)
    assert sum(found.repeated for found in result.tallies.values()) > 0
