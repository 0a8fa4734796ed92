"""All measurements with the figures of docs/performance.md: `python -m benchmarks`.

They run on the PostgreSQL at OUTBOX_TEST_POSTGRES and the Kafka at OUTBOX_TEST_KAFKA, one after the
other. Each report goes to build/bench as JSON, and its tables are printed; at the end each figure
that has a target is set beside it, in summary.json too. `python -m benchmarks.page` then writes all
of it into the page. On a machine that does something else as well only the ratios mean something.
`--quick` shows with tiny sizes that everything works; what it measures are no figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from benchmarks.page import FOLDER, ROOT, SUMMARY, read
from benchmarks.show import console, show, show_table
from benchmarks.targets import summary
from benchmarks.targets import table as targets_table
from outbox.transports.kafka.options import Options

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTBOX: Final = ("-m", "outbox", "bench")
DELIVERIES: Final = get_args(Options.model_fields["delivery"].annotation)
BOTH: Final = [f"--delivery={delivery}" for delivery in DELIVERIES]
OLD_PYTHON: Final = str(ROOT / "build" / "sqlalchemy-2.0" / "bin" / "python")
"""Of a virtual environment with SQLAlchemy 2.0, which `make` creates."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What writes a report to standard output."""

    program: Sequence[str]
    full: Sequence[str] = ()
    """Arguments that make it a figure."""
    quick: Sequence[str] = ()
    """Arguments instead that only show that it works."""
    python: str = sys.executable

    def command(self, *, is_quick: bool) -> Sequence[str]:
        return [self.python, *self.program, *(self.quick if is_quick else self.full)]


MEASUREMENTS: Final[dict[str, Measurement]] = {
    "relay": Measurement(
        [*OUTBOX, "relay", *BOTH, "--bytes=200", "--bytes=2048"],
        ["--rows=500000"],
        ["--rows=900", "--rounds=1"],
    ),
    "backlog": Measurement(
        [*OUTBOX, "relay", *BOTH, "--bytes=200", "--held-open"],
        ["--rows=50000", "--rows=500000", "--rows=5000000", "--large-rounds=1"],
        ["--rows=300", "--rows=900", "--rounds=1"],
    ),
    "late": Measurement([*OUTBOX, "late"], quick=["--rows=900", "--rounds=1"]),
    "latency": Measurement(
        [*OUTBOX, "latency", *BOTH],
        ["--without-doorbell"],
        ["--seconds=0.2", "--rounds=1", "--idle=0.5"],
    ),
    "emit": Measurement([*OUTBOX, "emit"], quick=["--rounds=2"]),
    "emit-2.0": Measurement([*OUTBOX, "emit"], quick=["--rounds=2"], python=OLD_PYTHON),
    "consume": Measurement(
        [*OUTBOX, "consume"], quick=["--events=60", "--batch-size=20", "--rounds=1"]
    ),
    "commits": Measurement(
        ["-m", "benchmarks.commits"], ["--rounds=3"], ["--rounds=1", "--seconds=0.2"]
    ),
    "commits-durable": Measurement(
        ["-m", "benchmarks.commits", "--durable"], ["--rounds=3"], ["--rounds=1", "--seconds=0.2"]
    ),
    "fanout": Measurement(
        ["-m", "benchmarks.fanout"], quick=["--rounds=1", "--rows=2000", "--seconds=0.2"]
    ),
    "transports": Measurement(["-m", "benchmarks.transports"], quick=["--rounds=1", "--rows=300"]),
    "s3": Measurement(["-m", "benchmarks.s3"], quick=["--rounds=1", "--events=100"]),
    "audit": Measurement(["-m", "benchmarks.audit"], quick=["--rounds=1", "--records=300"]),
    "ring": Measurement(["-m", "benchmarks.ring"], quick=["--rounds=1", "--items=5000"]),
}
"""By the name of the report."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "name", nargs="*", help=f"only these of: {', '.join(MEASUREMENTS)}", metavar="NAME"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the reports go")
    parser.add_argument("--note", default="", help="kept with the figures")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; needs --folder")
    options = parser.parse_args()
    unknown = [name for name in options.name if name not in MEASUREMENTS]
    if unknown:
        parser.error(f"there is no measurement {unknown[0]!r}; use {', '.join(MEASUREMENTS)}")
    folder: Path = options.folder
    if options.quick and folder == FOLDER:
        parser.error(f"--quick measures no figures: give a --folder other than {FOLDER}")
    folder.mkdir(parents=True, exist_ok=True)
    codes = []
    for name in options.name or MEASUREMENTS:
        command = MEASUREMENTS[name].command(is_quick=options.quick)
        codes.append(measure(name, [*command, "--note", options.note], folder))
    reports = read(folder)
    (folder / SUMMARY).write_text(json.dumps(summary(reports), indent=1) + "\n")
    console().rule("targets")
    show_table(targets_table(reports))
    return max(codes)


def measure(name: str, command: Sequence[str], folder: Path) -> int:
    """Take one measurement; its report is written when it is complete."""
    console().rule(name)
    try:
        done = subprocess.run(
            [*command, "--json"], env=environment(), stdout=subprocess.PIPE, check=False
        )
    except FileNotFoundError:
        print(f"error: {command[0]} is missing: `make bench-emit-20` makes it", file=sys.stderr)
        return 1
    if done.returncode:
        return done.returncode
    report = json.loads(done.stdout)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    show(report)
    return 0


def environment() -> dict[str, str]:
    """Return the environment, with the settings of an operator who has these two servers."""
    return {
        **os.environ,
        "OUTBOX_DATABASE_URL": os.environ["OUTBOX_TEST_POSTGRES"],
        "OUTBOX_ROUTES__KAFKA__TRANSPORT": "kafka",
        # Some measurements need no broker; the others say so.
        "OUTBOX_ROUTES__KAFKA__BOOTSTRAP_SERVERS": os.environ.get("OUTBOX_TEST_KAFKA", "none"),
    }


if __name__ == "__main__":
    sys.exit(main())
