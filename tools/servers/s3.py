"""An S3 server of one's own: S3Proxy on a folder, from the jars of Maven Central."""

from __future__ import annotations

import http.client
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools.servers.maven import Jars, find_java
from tools.servers.process import LOOPBACK, ServerError, ServerProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

JARS: Final = Jars("s3")
"""99 MB. Versions before 4.0 ignore `If-None-Match` of a PUT."""
ACCESS_KEY: Final = "outbox-tests"
SECRET_KEY: Final = "outbox-tests-secret"  # noqa: S105  # it protects nothing
REGION: Final = "us-east-1"
_JVM: Final = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC")
_LOGBACK: Final = """<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %-5level %logger{1} %msg%n</pattern></encoder>
  </appender>
  <root level="warn"><appender-ref ref="out"/></root>
</configuration>
"""


class S3Server:
    """A server on a fixed loopback port, with one pair of keys; buckets are folders.

    Data and port outlive `stop()` and `kill()`. `If-None-Match: *` of a PUT is honoured, and
    atomic; `If-Match` is honoured, but writers that race may all succeed.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        data, logback = folder / "data", folder / "logback.xml"
        data.mkdir()
        logback.write_text(_LOGBACK)
        properties = {
            "s3proxy.endpoint": self.endpoint_url,
            "s3proxy.authorization": "aws-v2-or-v4",
            "s3proxy.identity": ACCESS_KEY,
            "s3proxy.credential": SECRET_KEY,
            # Session tokens and encryption are no concern of its folders.
            "s3proxy.ignore-unknown-headers": "true",
            "jclouds.provider": "filesystem-nio2",
            "jclouds.identity": "",
            "jclouds.credential": "",
            "jclouds.filesystem.basedir": str(data),
        }
        settings = folder / "s3proxy.properties"
        settings.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        self._command: list[str | Path] = [
            *(find_java(), *_JVM, f"-Dlogback.configurationFile={logback}"),
            *("-cp", f"{JARS.find()}/*", "org.gaul.s3proxy.Main", "--properties", settings),
        ]
        self._process: ServerProcess | None = None

    @property
    def endpoint_url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def url(self) -> str:
        """Return the address with the keys in it, as OUTBOX_TEST_S3 has them."""
        return f"http://{ACCESS_KEY}:{SECRET_KEY}@{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Return when the server answers; raise `ServerError` with the end of its log otherwise."""
        self._process = ServerProcess(
            self._command, folder=self._folder, log=self._folder / "s3.log", owner=None
        )
        self._process.wait_until(self._is_ready, timeout_seconds=60)

    def stop(self) -> None:
        """Shut down in order; does nothing to a stopped server."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """Kill -9; what was answered is in the folder."""
        self._running().kill()
        self._process = None

    def pause(self) -> None:
        """Freeze the server; connections stay open and get no answer."""
        self._running().pause()

    def resume(self) -> None:
        self._running().resume()

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise ServerError("the S3 server is not running; start() it first")
        return self._process

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=2)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < http.client.INTERNAL_SERVER_ERROR
        except OSError:
            return False
        finally:
            connection.close()


@contextmanager
def s3() -> Iterator[S3Server]:
    """Run a new server without buckets in a temporary folder until the block ends.

    Raises `ServerAbsentError` where Java or the jars are missing, and `ServerError` if the server
    does not start.
    """
    with tempfile.TemporaryDirectory(prefix="outbox-s3-", ignore_cleanup_errors=True) as path:
        server = S3Server(Path(path))
        try:
            server.start()
            yield server
        finally:
            server.stop()
