"""A schema registry of one's own: Apicurio Registry, which has Confluent's interface as well."""

from __future__ import annotations

import http.client
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools.servers.maven import Jars, find_java
from tools.servers.process import LOOPBACK, Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

JARS: Final = Jars("registry", is_archive=True)
"""146 MB."""
_JVM: Final = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_PATH: Final = "/apis/ccompat/v7"


class RegistryServer(Server):
    """A registry without a login; what it knows is in its memory, and gone with its process."""

    name = "the schema registry"
    start_seconds = 120

    @property
    def url(self) -> str:
        """Of Confluent's interface."""
        return f"http://{self.address}{_PATH}"

    def _command(self) -> Sequence[str | Path]:
        (runner,) = JARS.find().glob("*-runner.jar")
        settings = {"quarkus.http.host": LOOPBACK, "quarkus.http.port": str(self.port)}
        options = [f"-D{name}={value}" for name, value in settings.items()]
        return [find_java(), *_JVM, *options, "-jar", runner]

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=2)
        try:
            connection.request("GET", f"{_PATH}/subjects")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()


@contextmanager
def registry() -> Iterator[RegistryServer]:
    """Run a new, empty registry until the block ends.

    Raises `ServerAbsentError` where Java or its archive is missing, and `ServerError` if it does
    not start.
    """
    with tempfile.TemporaryDirectory(prefix="outbox-registry-", ignore_cleanup_errors=True) as path:
        server = RegistryServer(Path(path))
        try:
            server.start()
            yield server
        finally:
            server.stop()
