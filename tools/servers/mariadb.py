"""A MariaDB server of one's own, from the binaries of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tools.servers.process import (
    LOOPBACK,
    Server,
    ServerAbsentError,
    ServerError,
    unprivileged,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_ROOT: Final = "root"
_SBIN: Final = "/usr/sbin"


class Programs(NamedTuple):
    """The two that a server takes."""

    server: str
    install: str


def find_programs() -> Programs:
    """Return where the programs are; raise `ServerAbsentError` if one of them is nowhere."""
    server = shutil.which("mariadbd") or shutil.which("mariadbd", path=_SBIN)
    install = shutil.which("mariadb-install-db")
    if server is None or install is None or shutil.which("my_print_defaults") is None:
        raise ServerAbsentError(
            "mariadbd, mariadb-install-db and my_print_defaults are not all on PATH; install them"
            " (on Debian: apt-get install mariadb-server-core mariadb-client-core)"
        )
    return Programs(server, install)


class MariaDbServer(Server):
    """A server; `root` has all rights and no password.

    Without `durable` a commit is written but not
    flushed to the disk: quick, and still safe against `kill()`, because the machine stays up.
    """

    name = "the MariaDB server"

    def __init__(self, folder: Path, *, durable: bool, settings: Mapping[str, str]) -> None:
        super().__init__(folder, owner=unprivileged("mysql"))
        self._programs = find_programs()
        self._settings = {
            "bind-address": LOOPBACK,
            "port": str(self.port),
            "socket": str(folder / "socket"),
            "pid-file": str(folder / "pid"),
            "skip-networking": "0",
            "character-set-server": "utf8mb4",
            "max-connections": "200",
            "innodb-flush-log-at-trx-commit": "1" if durable else "2",
            "innodb-buffer-pool-size": "128M",
            **settings,
        }
        if self._owner is not None:
            os.chown(folder, self._owner.pw_uid, self._owner.pw_gid)
        self._create_data()

    @property
    def version(self) -> str:
        output = subprocess.run(
            [self._programs.server, "--version"], check=True, capture_output=True, text=True
        )
        return output.stdout.strip()

    def url(self, database: str = "") -> str:
        """Return the address as SQLAlchemy takes it, with the PyMySQL driver."""
        return f"mariadb+pymysql://{_ROOT}@{self.address}/{database}"

    def _command(self) -> Sequence[str | Path]:
        options = (f"--{name}={value}" for name, value in self._settings.items())
        # The configuration of this machine is for another server.
        return [self._programs.server, "--no-defaults", f"--datadir={self.data}", *options]

    @property
    def data(self) -> Path:
        return self._folder / "data"

    def _is_ready(self) -> bool:
        """Tell whether it greets a client, which it does when it is done with its recovery."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=2) as connection:
                return connection.recv(1) != b""
        except OSError:
            return False

    def _create_data(self) -> None:
        made = subprocess.run(
            [
                *(self._programs.install, "--no-defaults", f"--datadir={self.data}"),
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
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
            raise ServerError(
                f"mariadb-install-db ended with code {made.returncode}:\n{made.stdout}{made.stderr}"
            )


@contextmanager
def mariadb(
    *, durable: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[MariaDbServer]:
    """Run a new, empty server in a temporary folder until the block ends.

    `settings` are options of its command line. Raises `ServerAbsentError` where MariaDB is not
    installed, and `ServerError` if it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="outbox-mariadb-", ignore_cleanup_errors=True) as path:
        server = MariaDbServer(Path(path), durable=durable, settings=settings or {})
        try:
            server.start()
            yield server
        finally:
            server.stop()
