"""`python -m tools.servers [--postgres] [--kafka] [--s3] … [-- COMMAND …]`: see `--help`.

Runs a command with servers around it. It finds their addresses in OUTBOX_TEST_POSTGRES and
OUTBOX_TEST_MARIADB (SQLAlchemy URLs), OUTBOX_TEST_KAFKA and OUTBOX_TEST_ACTIVEMQ (host:port),
OUTBOX_TEST_S3 (a URL with keys) and OUTBOX_TEST_REGISTRY (a URL); an address that is already in the
environment is used, and no server started for it. The exit code is the command's. Without a
command the addresses are printed, and the servers stay until Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from tools.servers.activemq import JARS as ACTIVEMQ_JARS
from tools.servers.activemq import activemq
from tools.servers.certificates import find_openssl
from tools.servers.clock import find_faketime
from tools.servers.kafka import JARS as KAFKA_JARS
from tools.servers.kafka import kafka
from tools.servers.mariadb import find_programs, mariadb
from tools.servers.maven import find_java, find_maven
from tools.servers.pgbouncer import find_pgbouncer
from tools.servers.postgres import find_binaries, postgres
from tools.servers.process import ServerAbsentError, ServerError
from tools.servers.registry import JARS as REGISTRY_JARS
from tools.servers.registry import registry
from tools.servers.s3 import JARS as S3_JARS
from tools.servers.s3 import s3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

POSTGRES = "OUTBOX_TEST_POSTGRES"
MARIADB = "OUTBOX_TEST_MARIADB"
KAFKA = "OUTBOX_TEST_KAFKA"
ACTIVEMQ = "OUTBOX_TEST_ACTIVEMQ"
S3 = "OUTBOX_TEST_S3"
REGISTRY = "OUTBOX_TEST_REGISTRY"


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, _leave)
    try:
        if arguments.fetch:
            _fetch()
        with ExitStack() as stack:
            return _run(_addresses(arguments, stack), arguments.command)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.servers", description=__doc__)
    parser.add_argument("--postgres", action="store_true", help=f"provide {POSTGRES}")
    parser.add_argument("--mariadb", action="store_true", help=f"provide {MARIADB}")
    parser.add_argument("--kafka", action="store_true", help=f"provide {KAFKA}")
    parser.add_argument("--activemq", action="store_true", help=f"provide {ACTIVEMQ}")
    parser.add_argument("--s3", action="store_true", help=f"provide {S3}")
    parser.add_argument("--registry", action="store_true", help=f"provide {REGISTRY}")
    parser.add_argument("--fetch", action="store_true", help="first get what is missing here")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="what to run, after --")
    return parser


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _addresses(arguments: argparse.Namespace, stack: ExitStack) -> dict[str, str]:
    found = {
        name: os.environ[name]
        for name in (POSTGRES, MARIADB, KAFKA, ACTIVEMQ, S3, REGISTRY)
        if name in os.environ
    }
    if arguments.postgres and POSTGRES not in found:
        found[POSTGRES] = stack.enter_context(postgres()).url()
    if arguments.mariadb and MARIADB not in found:
        found[MARIADB] = stack.enter_context(mariadb()).url()
    if arguments.kafka and KAFKA not in found:
        found[KAFKA] = stack.enter_context(kafka()).bootstrap_servers
    if arguments.activemq and ACTIVEMQ not in found:
        found[ACTIVEMQ] = stack.enter_context(activemq()).address
    if arguments.s3 and S3 not in found:
        found[S3] = stack.enter_context(s3()).url()
    if arguments.registry and REGISTRY not in found:
        found[REGISTRY] = stack.enter_context(registry()).url
    return found


def _run(addresses: dict[str, str], command: Sequence[str]) -> int:
    if not command and not addresses:
        return 0
    if not command:
        for name, value in addresses.items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
        return 0
    with _interrupts_ignored(), subprocess.Popen(command, env=os.environ | addresses) as child:
        try:
            return _exit_code(child.wait())
        except SystemExit:
            child.terminate()
            return _exit_code(child.wait())


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Leave Ctrl-C to the command: the terminal sends it there as well, and we wait for its end."""
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _exit_code(returned: int) -> int:
    return returned if returned >= 0 else 128 - returned


def _fetch() -> None:
    """Download the jars, and install Debian's packages where we may; say what is missing else."""
    packages: dict[str, Callable[[], object]] = {
        "postgresql": find_binaries,
        "pgbouncer": find_pgbouncer,
        # Not mariadb-server, which would start a service of the system beside them.
        "mariadb-server-core": find_programs,
        "mariadb-client-core": find_programs,
        "faketime": find_faketime,
        "default-jre-headless": find_java,
        "maven": find_maven,
        "openssl": find_openssl,
    }
    missing = [package for package, find in packages.items() if _is_absent(find)]
    apt = shutil.which("apt-get")
    if missing and apt is not None and os.geteuid() == 0:
        print(f"installing {', '.join(missing)}", file=sys.stderr)
        for step in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            subprocess.run([apt, "-qq", *step], check=True, stdout=sys.stderr)
    find_binaries()
    find_pgbouncer()
    find_programs()
    find_faketime()
    find_java()
    find_openssl()
    KAFKA_JARS.fetch()
    ACTIVEMQ_JARS.fetch()
    S3_JARS.fetch()
    REGISTRY_JARS.fetch()


def _is_absent(find: Callable[[], object]) -> bool:
    try:
        find()
    except ServerAbsentError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
