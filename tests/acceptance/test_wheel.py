from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program outside the checkout; its output is the message where it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT, cwd=folder)
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_has_migrations_statements_and_types_and_no_module_of_a_common_name(
    wheel: Path,
) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "outbox/migrations/env.py" in names
    assert "outbox/migrations/versions/0001_outbox.py" in names
    assert "outbox/py.typed" in names
    assert "relay/py.typed" in names
    assert any(name.startswith("relay/sql/") and name.endswith(".sql") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"outbox", "relay"}


@pytest.mark.timeout(300)
def test_the_wheel_runs_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    programs = tmp_path / "venv" / "bin"
    run(programs / "pip", "install", "--quiet", wheel, cwd=tmp_path)
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    (tmp_path / "outbox.toml").write_text(
        f'database_url = "{url}"\n[routes.kafka]\ntransport = "kafka"\n'
        'bootstrap_servers = "127.0.0.1:9"\n'
    )
    run(programs / "outbox", "migrate", cwd=tmp_path)
    assert '"kafka"' in run(programs / "outbox", "status", "--json", cwd=tmp_path)
    assert "outbox" in run(programs / "outbox", "demo", "--json", cwd=tmp_path)
