"""From the measurements to the page: tiny sizes, but every program, table and picture."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.__main__ import MEASUREMENTS
from benchmarks.page import GUIDE, MARKED, PAGE, ROOT, SUMMARY

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa

OF_ANOTHER_PYTHON = "emit-2.0"
"""What needs a virtual environment of its own; it measures what `emit` does."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_figure_and_picture_of_the_page_comes_out_of_the_measurements(
    tmp_path: Path, postgres_server: sa.URL, kafka_server: str
) -> None:
    names = [name for name in MEASUREMENTS if name != OF_ANOTHER_PYTHON]
    servers = {
        "OUTBOX_TEST_POSTGRES": postgres_server.render_as_string(hide_password=False),
        "OUTBOX_TEST_KAFKA": kafka_server,
    }
    folder, page = tmp_path / "bench", tmp_path / "performance.md"
    run("benchmarks", "--quick", "--folder", str(folder), "--note", "tiny", *names, **servers)
    assert {path.stem for path in folder.glob("*.json")} == {*names, "summary"}
    shutil.copy(folder / "emit.json", folder / f"{OF_ANOTHER_PYTHON}.json")

    guide = tmp_path / "transports.md"
    shutil.copy(PAGE, page)
    shutil.copy(GUIDE, guide)
    run("benchmarks.page", str(folder), "--page", str(page), "--guide", str(guide))
    assert re.search(
        r"^\| memory \|.*\| [1-9][\d,]* \| [1-9][\d,]* \|$", guide.read_text(), re.MULTILINE
    )
    text = page.read_text()
    sections = {match[2]: match[0].splitlines()[1:-1] for match in MARKED.finditer(text)}
    assert sections.keys() == {*MEASUREMENTS, "targets"}
    for name, lines in sections.items():
        assert lines[0].startswith("| "), f"{name} is empty"
        assert name == "targets" or lines[-1].endswith(", tiny."), name
    assert "not measured" not in text
    for picture in re.findall(r"!\[.+\]\((.+)\)", text):
        assert (tmp_path / picture).read_text().startswith("<svg"), picture

    told = json.loads((folder / SUMMARY).read_text())["targets"]
    assert [each["what"] for each in told if each["measured"] is None] == [
        each["what"] for each in told if each["what"].endswith("SQLAlchemy 2.0")
    ]


def test_no_figures_are_overwritten_by_tiny_sizes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "give a --folder other than" in done.stderr


def run(program: str, *arguments: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
