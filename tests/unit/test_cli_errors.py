from __future__ import annotations

import sys

import pymysql
import pytest
import sqlalchemy as sa

from outbox.cli.app import run
from outbox.cli.errors import CommandLineError, FailedError, problem_of
from outbox.cli.invocation import Invocation
from outbox.errors import ConfigurationError, LeaseLostError


@pytest.fixture
def invocation(monkeypatch: pytest.MonkeyPatch) -> Invocation:
    monkeypatch.setenv("OUTBOX_DATABASE_URL", "postgresql+psycopg://app:secret@host/shop")
    return Invocation()


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (CommandLineError("x"), 2),
        (FailedError("x"), 1),
        (ConfigurationError("x"), 1),
        (LeaseLostError("x"), 1),
    ],
)
def test_our_errors_speak_for_themselves(
    invocation: Invocation, error: Exception, exit_code: int
) -> None:
    problem = problem_of(error, invocation)
    assert (problem.sentence, problem.exit_code) == ("x", exit_code)


class DriverError(Exception):
    """What a driver raises, with the code that PostgreSQL gave it."""

    def __init__(self, message: str, sqlstate: str | None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("kind", "sqlstate", "expected"),
    [
        (sa.exc.ProgrammingError, "42P01", "run `outbox migrate`"),
        (sa.exc.ProgrammingError, "42703", "run `outbox migrate`"),
        (sa.exc.ProgrammingError, "42501", "grant its role what is missing"),
        (sa.exc.OperationalError, None, "check database_url and the server"),
        (sa.exc.DataError, "22P02", "reports: the reason"),
    ],
)
def test_the_database_errors_are_told_apart_by_their_codes(
    invocation: Invocation, kind: type[sa.exc.DBAPIError], sqlstate: str | None, expected: str
) -> None:
    error = kind("SELECT secret", {"password": "secret"}, DriverError("the reason", sqlstate))
    problem = problem_of(error, invocation)
    assert expected in problem.sentence
    assert "secret" not in problem.sentence
    assert problem.exit_code == 1


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1146, "run `outbox migrate`"),
        (1054, "run `outbox migrate`"),
        (1142, "refuses this: the reason; GRANT its user what is missing"),
        (1049, "make the database by CREATE DATABASE"),
        (1045, "cannot use mariadb+pymysql://app:***@host/shop: the reason; check database_url"),
        (2003, "cannot use mariadb+pymysql://app:***@host/shop: the reason; check database_url"),
        (1406, "reports: the reason"),
    ],
)
def test_the_errors_of_mariadb_are_told_apart_by_their_numbers(
    monkeypatch: pytest.MonkeyPatch, number: int, expected: str
) -> None:
    monkeypatch.setenv("OUTBOX_DATABASE_URL", "mariadb+pymysql://app:secret@host/shop")
    origin = pymysql.OperationalError(number, "the reason")
    error = sa.exc.OperationalError("SELECT secret", {"password": "secret"}, origin)
    problem = problem_of(error, Invocation())
    assert expected in problem.sentence
    assert "secret" not in problem.sentence


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mariadb+pymysql://h/d", "the driver 'pymysql', which is not installed: pip install"),
        ("mysql://h/d", "'MySQLdb', which is not installed; write mariadb+pymysql://…"),
        ("mariadb+asyncmy://h/d", "use a sync one"),
    ],
)
def test_a_driver_of_mariadb_that_is_missing_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, expected: str
) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    monkeypatch.setenv("OUTBOX_DATABASE_URL", url)
    assert run(["status"]) == 2
    shown = capsys.readouterr().err
    assert expected in shown
    assert shown.count("\n") == 1
    if "pip" in shown:
        assert "pip install 'outbox-relay[mariadb]'" in shown


def test_what_nobody_expected_is_one_line_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_invocation: Invocation) -> None:
        raise ValueError("first line\nsecond \x1b[31mline")

    monkeypatch.setattr(Invocation, "engine", property(fail))
    monkeypatch.setenv("OUTBOX_DATABASE_URL", "sqlite://")
    assert run(["events", "list"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "error: unexpected ValueError: first line second \\x1b[31mline"
        " (`outbox --debug …` shows where)\n"
    )


def test_the_traceback_is_shown_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUTBOX_DATABASE_URL", "no url")
    assert run(["--debug", "status"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.splitlines()[-1].startswith("error: in the environment: database_url")


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_invocation: Invocation) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Invocation, "engine", property(interrupt))
    monkeypatch.setenv("OUTBOX_DATABASE_URL", "sqlite://")
    assert run(["events", "list"]) == 130
