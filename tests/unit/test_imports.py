"""What `import outbox` gives, and what it leaves alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import outbox

ROOT = Path(outbox.__file__).parent


def imported_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", ["psycopg", "confluent_kafka", "alembic", "typer", "rich"])
def test_importing_the_library_imports_no_driver_and_no_program(name: str) -> None:
    assert name not in imported_by("import outbox")


def test_importing_the_library_needs_no_greenlet() -> None:
    assert "sqlalchemy.ext.asyncio" not in imported_by("import outbox")


def test_the_command_line_declares_no_event_type_that_an_application_could_want() -> None:
    found = imported_by("import outbox.cli.app")
    assert not {"outbox.demo.events", "outbox.bench.shop"} & found


def test_the_library_does_not_know_the_daemon() -> None:
    """Only programs do, because they start it."""
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] not in {"bench", "cli", "demo"}
        for name in imports(path)
        if name.split(".")[0] in {"relay", "migrations", "tests", "tools"}
    }
    assert found == set()


def imports(path: Path) -> set[str]:
    """The modules that a file names in its imports, those inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_the_public_names_are_sorted_and_there() -> None:
    assert outbox.__all__ == sorted(outbox.__all__)
    assert all(hasattr(outbox, name) for name in outbox.__all__)
    errors = {name for name in vars(sys.modules["outbox.errors"]) if name.endswith("Error")}
    assert errors <= set(outbox.__all__)


def test_the_event_decorator_is_not_hidden_by_its_module() -> None:
    assert "ok" in imported_by(
        "import outbox.event, outbox; assert callable(outbox.event); sys = __import__('sys');"
        " sys.modules['ok'] = sys"
    )
