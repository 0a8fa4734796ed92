"""Writes measured figures into docs/performance.md: `python -m benchmarks.page [FOLDER]`.

The folder holds the reports as JSON (build/bench, where `make bench` leaves them). Between the
markers `<!-- figures: NAME -->` and `<!-- end -->` stands what this program wrote; everything else
on the page is written by hand. Pictures are made anew beside the page. The matrix of
docs/guide/transports.md is written in the same way.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks import targets
from benchmarks.matrix import matrix
from benchmarks.pictures import PICTURES
from outbox.bench.tables import machine_line, tables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outbox.bench.tables import Table

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "performance.md"
GUIDE: Final = ROOT / "docs" / "guide" / "transports.md"
FOLDER: Final = ROOT / "build" / "bench"
SUMMARY: Final = "summary.json"
"""For scripts; all of it is in the reports."""
TARGETS: Final = "targets"
"""The name of the section that is made of all reports."""
MATRIX: Final = "matrix"
"""The name of the section that is made of what the contract suite declares, and a report."""
MARKED: Final = re.compile(r"(<!-- figures: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--guide", type=Path, default=GUIDE)
    options = parser.parse_args()
    reports = read(options.folder)
    if not reports:
        print(f"error: there are no reports in {options.folder}: run `make bench`", file=sys.stderr)
        return 1
    page: Path = options.page
    for each in (page, options.guide):
        each.write_text(filled(each.read_text(), reports))
    pictures = page.with_name("pictures")
    pictures.mkdir(exist_ok=True)
    for name, (report, draw) in PICTURES.items():
        if report in reports:
            (pictures / name).write_text(draw(reports[report]))
            print(f"{pictures / name}")
    print(f"{page}: {', '.join(reports)}")
    return 0


def read(folder: Path) -> dict[str, Any]:
    """Return the reports of a folder by their names."""
    paths = [path for path in sorted(folder.glob("*.json")) if path.name != SUMMARY]
    return {path.stem: json.loads(path.read_text()) for path in paths}


def filled(page: str, reports: Mapping[str, Any]) -> str:
    """Return the page with the figures of each report there is between its markers."""

    def section(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name == TARGETS:
            return f"{begin}{markdown(targets.table(reports))}{end}"
        if name == MATRIX and "transports" in reports:
            return f"{begin}{guarantees(reports['transports'])}{end}"
        return f"{begin}{figures(reports[name])}{end}" if name in reports else match[0]

    return MARKED.sub(section, page)


def figures(report: Mapping[str, Any]) -> str:
    """Write the tables of one report, and where they come from, in Markdown."""
    return "\n".join([*(markdown(table) for table in tables(report)), _origin(report)])


def _origin(report: Mapping[str, Any]) -> str:
    return f"Measured on {report['started_at'][:10]}: {machine_line(report)}.\n"


def guarantees(report: Mapping[str, Any]) -> str:
    """Write the matrix of transports, and where its figures come from."""
    return f"{markdown(matrix(report))}\n{_origin(report)}"


def markdown(table: Table) -> str:
    rule = ["---" if index < table.left else "---:" for index in range(len(table.titles))]
    lines = [table.titles, rule, *table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
