"""A PgBouncer of one's own in front of a PostgreSQL server, from the program of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from tools.servers.process import (
    LOOPBACK,
    Server,
    ServerAbsentError,
    unprivileged,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_PASSWORD: Final = "pooled"  # noqa: S105  # of a server on loopback that is gone in a moment
_SBIN: Final = "/usr/sbin"


def find_pgbouncer() -> str:
    """Return the path of `pgbouncer`; raise `ServerAbsentError` if there is none."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path=_SBIN)
    if found is None:
        raise ServerAbsentError(
            "pgbouncer is neither on PATH nor in /usr/sbin; install it"
            " (on Debian: apt-get install pgbouncer)"
        )
    return found


class PgBouncerServer(Server):
    """A pooler in transaction mode and else as it comes.

    Clients log in by SCRAM. It leads to each database of one server, as one user.
    """

    name = "PgBouncer"
    start_seconds = 20

    def __init__(
        self, folder: Path, host: str, port: int, user: str, settings: Mapping[str, str]
    ) -> None:
        super().__init__(folder, owner=unprivileged("postgres"))
        self._user = user
        self.password = _PASSWORD
        self._settings = folder / "pgbouncer.ini"
        users = folder / "users.txt"
        lines = {
            "listen_addr": LOOPBACK,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(users),
            "admin_users": user,
            "pool_mode": "transaction",
            **settings,
        }
        self._settings.write_text(
            f"[databases]\n* = host={host} port={port}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )
        users.write_text(f'"{user}" "{_PASSWORD}"\n')
        if self._owner is not None:
            for path in (folder, self._settings, users):
                os.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    def through(self, url: str) -> str:
        """Return the URL of a database of the server as one that leads through the pooler."""
        made = sa.make_url(url).set(
            username=self._user, password=self.password, host=LOOPBACK, port=self.port
        )
        return made.render_as_string(hide_password=False)

    def _command(self) -> Sequence[str | Path]:
        return [find_pgbouncer(), self._settings]

    def _is_ready(self) -> bool:
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=2).close()
        except OSError:
            return False
        return True


@contextmanager
def pgbouncer(
    host: str, port: int, *, user: str = "postgres", settings: Mapping[str, str] | None = None
) -> Iterator[PgBouncerServer]:
    """Run a pooler in front of the server at an address until the block ends.

    It logs into the server as `user`, which the server has to trust. `settings` are added to its
    configuration, or replace what is there. Raises `ServerAbsentError` where it is not installed,
    and `ServerError` if it does not start.
    """
    prefix = "outbox-pgbouncer-"
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as path:
        server = PgBouncerServer(Path(path), host, port, user, settings or {})
        try:
            server.start()
            yield server
        finally:
            server.stop()
