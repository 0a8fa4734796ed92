"""An S3 server of one's own: S3Proxy on a folder, from the jars of Maven Central."""

from __future__ import annotations

import http.client
import ssl
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tools.servers.certificates import STORE_PASSWORD
from tools.servers.maven import Jars, find_java
from tools.servers.process import LOOPBACK, Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


class S3Server(Server):
    """A server with one pair of keys; buckets are folders.

    `If-None-Match: *` of a PUT is honoured, and
    atomic; `If-Match` is honoured, but writers that race may all succeed. With `keys`, a PKCS#12
    file, the port speaks TLS.
    """

    name = "the S3 server"

    def __init__(self, folder: Path, *, keys: Path | None) -> None:
        super().__init__(folder)
        self._is_encrypted = keys is not None
        data = folder / "data"
        data.mkdir()
        self._logback = folder / "logback.xml"
        self._logback.write_text(_LOGBACK)
        properties = {
            "s3proxy.secure-endpoint" if keys else "s3proxy.endpoint": self.endpoint_url,
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
        if keys is not None:
            properties["s3proxy.keystore-path"] = str(keys)
            properties["s3proxy.keystore-password"] = STORE_PASSWORD
        self._settings = folder / "s3proxy.properties"
        self._settings.write_text(
            "".join(f"{name}={value}\n" for name, value in properties.items())
        )

    @property
    def endpoint_url(self) -> str:
        return f"http{'s' if self._is_encrypted else ''}://{self.address}"

    def url(self) -> str:
        """Return the address with the keys in it, as OUTBOX_TEST_S3 has them."""
        return self.endpoint_url.replace("//", f"//{ACCESS_KEY}:{SECRET_KEY}@")

    def _command(self) -> Sequence[str | Path]:
        return [
            *(find_java(), *_JVM, f"-Dlogback.configurationFile={self._logback}"),
            *("-cp", f"{JARS.find()}/*", "org.gaul.s3proxy.Main", "--properties", self._settings),
        ]

    def _is_ready(self) -> bool:
        connection: http.client.HTTPConnection
        if self._is_encrypted:
            context = ssl._create_unverified_context()  # noqa: S323, SLF001  # nothing is told there
            connection = http.client.HTTPSConnection(
                LOOPBACK, self.port, timeout=2, context=context
            )
        else:
            connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=2)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < http.client.INTERNAL_SERVER_ERROR
        except OSError:
            return False
        finally:
            connection.close()


@contextmanager
def s3(*, keys: Path | None = None) -> Iterator[S3Server]:
    """Run a new server without buckets in a temporary folder until the block ends; see `S3Server`.

    Raises `ServerAbsentError` where Java or the jars are missing, and `ServerError` if the server
    does not start.
    """
    with tempfile.TemporaryDirectory(prefix="outbox-s3-", ignore_cleanup_errors=True) as path:
        server = S3Server(Path(path), keys=keys)
        try:
            server.start()
            yield server
        finally:
            server.stop()
