"""All measurements with the figures of docs/performance.md: `python -m benchmarks`.

They run on the PostgreSQL at OUTBOX_TEST_POSTGRES and the Kafka at OUTBOX_TEST_KAFKA, one after the
other. Each report goes to build/bench as JSON, and its tables are printed; `python -m
benchmarks.page` then writes them into the page. On a machine that does something else as well only
the ratios mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from rich.console import Console

from benchmarks.page import FOLDER
from benchmarks.show import show
from outbox.transports.kafka.options import Options

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTBOX: Final = [sys.executable, "-m", "outbox", "bench"]
DELIVERIES: Final = get_args(Options.model_fields["delivery"].annotation)
BOTH: Final = [f"--delivery={delivery}" for delivery in DELIVERIES]
MEASUREMENTS: Final[dict[str, Sequence[str]]] = {
    "relay": [*OUTBOX, "relay", *BOTH, "--bytes", "200", "--bytes", "2048", "--rows", "200000"],
    "backlog": [
        *[*OUTBOX, "relay", *BOTH, "--bytes", "200", "--rounds", "1"],
        *["--rows", "50000", "--rows", "500000", "--rows", "5000000"],
    ],
    "held-open": [
        *[*OUTBOX, "relay", *BOTH, "--bytes", "200", "--held-open"],
        *["--rows", "50000", "--rows", "1000000", "--rounds", "1"],
    ],
    "latency": [*OUTBOX, "latency", *BOTH, "--without-doorbell"],
    "emit": [*OUTBOX, "emit"],
    "consume": [*OUTBOX, "consume"],
    "commits": [sys.executable, "-m", "benchmarks.commits"],
    "commits-durable": [sys.executable, "-m", "benchmarks.commits", "--durable"],
}
"""By the name of the report: what writes it to standard output."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "name", nargs="*", help=f"only these of: {', '.join(MEASUREMENTS)}", metavar="NAME"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the reports go")
    parser.add_argument("--note", default="", help="kept with the figures")
    options = parser.parse_args()
    unknown = [name for name in options.name if name not in MEASUREMENTS]
    if unknown:
        parser.error(f"there is no measurement {unknown[0]!r}; use {', '.join(MEASUREMENTS)}")
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    codes = [measure(name, folder, options.note) for name in options.name or MEASUREMENTS]
    return max(codes)


def measure(name: str, folder: Path, note: str) -> int:
    """Take one measurement; its report is written when it is complete."""
    console = Console(highlight=False)
    console.rule(name)
    command = [*MEASUREMENTS[name], "--json", "--note", note]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, check=False)
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
        "OUTBOX_ROUTES__KAFKA__BOOTSTRAP_SERVERS": os.environ["OUTBOX_TEST_KAFKA"],
    }


if __name__ == "__main__":
    sys.exit(main())
