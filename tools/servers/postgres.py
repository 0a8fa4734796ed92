"""A PostgreSQL server of one's own, from the binaries of this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from tools.servers.process import (
    LOOPBACK,
    Server,
    ServerAbsentError,
    ServerError,
    unprivileged,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_SUPERUSER = "postgres"


def find_binaries() -> Path:
    """Return the folder of the newest `initdb`; raise `ServerAbsentError` if there is none."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: [int(part) for part in re.findall(r"\d+", path.parts[4])],
    )
    on_path = shutil.which("initdb")
    if versions:
        return versions[-1].parent
    if on_path is not None:
        return Path(on_path).resolve().parent
    raise ServerAbsentError(
        "PostgreSQL's initdb is neither in /usr/lib/postgresql/*/bin nor on PATH; "
        "install it (on Debian: apt-get install postgresql)"
    )


class PostgresServer(Server):
    """A server that trusts whoever connects; its superuser is `postgres`.

    Without `durable`, `fsync` is off: quick, and
    still safe against `kill()`, because the machine itself stays up.
    """

    name = "the PostgreSQL server"
    stop_signal = signal.SIGINT

    def __init__(self, folder: Path, *, durable: bool, settings: Mapping[str, str]) -> None:
        super().__init__(folder, owner=unprivileged("postgres"))
        self._binaries = find_binaries()
        self._settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "wal_level": "logical",
            "max_connections": "200",
            "max_prepared_transactions": "20",
            "fsync": "on" if durable else "off",
            **settings,
        }
        if self._owner is not None:
            os.chown(folder, self._owner.pw_uid, self._owner.pw_gid)
        self._create_data()

    @property
    def version(self) -> str:
        output = subprocess.run(
            [self._binaries / "postgres", "--version"], check=True, capture_output=True, text=True
        )
        return output.stdout.strip()

    def dsn(self, database: str = "postgres") -> str:
        """Return the address as libpq and psycopg take it."""
        return f"postgresql://{_SUPERUSER}@{self.address}/{database}"

    def url(self, database: str = "postgres") -> str:
        """Return the address as SQLAlchemy takes it, with the psycopg driver."""
        return f"postgresql+psycopg://{_SUPERUSER}@{self.address}/{database}"

    def _command(self) -> Sequence[str | Path]:
        options = (f"--{name}={value}" for name, value in self._settings.items())
        return [self._binaries / "postgres", "-D", self.data, *options]

    @property
    def data(self) -> Path:
        return self._folder / "data"

    def _is_ready(self) -> bool:
        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _create_data(self) -> None:
        made = subprocess.run(
            [
                *(self._binaries / "initdb", "--pgdata", self.data, "--username", _SUPERUSER),
                *("--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
            ],
            check=False,
            cwd=self._folder,
            capture_output=True,
            text=True,
            user=self._owner.pw_uid if self._owner else None,
            group=self._owner.pw_gid if self._owner else None,
            extra_groups=[] if self._owner else None,
        )
        if made.returncode != 0:
            raise ServerError(f"initdb ended with code {made.returncode}:\n{made.stderr}")


@contextmanager
def postgres(
    *, durable: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[PostgresServer]:
    """Run a new, empty server in a temporary folder until the block ends.

    `settings` are added to the configuration. Raises `ServerAbsentError` where PostgreSQL is not
    installed, and `ServerError` if it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="outbox-postgres-", ignore_cleanup_errors=True) as path:
        server = PostgresServer(Path(path), durable=durable, settings=settings or {})
        try:
            server.start()
            yield server
        finally:
            server.stop()
