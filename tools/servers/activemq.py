"""An ActiveMQ broker of one's own, from the jars of Maven Central."""

from __future__ import annotations

import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import quoteattr

from tools.servers.certificates import STORE_PASSWORD
from tools.servers.maven import Jars, find_java
from tools.servers.process import LOOPBACK, Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

JARS = Jars("activemq")
"""15 MB."""
_JVM = ("-Xmx512M", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")


class ActiveMqServer(Server):
    """A broker that speaks STOMP, with its store on disk.

    With `users` (name → password) a client has to
    log in; all may do everything, except that those whose name begins with `guest` may use only
    what is called `open` and what is below it. With `keys`, a PKCS#12 file, the port speaks TLS;
    with `trusted` a client needs a certificate of one of those in that file.
    """

    name = "the ActiveMQ broker"
    start_seconds = 90

    def __init__(
        self,
        folder: Path,
        *,
        users: Mapping[str, str],
        keys: Path | None,
        trusted: Path | None,
        max_frame_bytes: int,
    ) -> None:
        super().__init__(folder)
        self._java = [find_java(), *_JVM, "-cp", f"{JARS.find()}/*"]
        self._settings = folder / "activemq.xml"
        scheme = "stomp" if keys is None else "stomp+ssl"
        need = "" if trusted is None else "&needClientAuth=true"
        uri = f"{scheme}://{LOOPBACK}:{self.port}?wireFormat.maxFrameSize={max_frame_bytes}{need}"
        parts = [_login(users) if users else "", _tls(keys, trusted) if keys else ""]
        self._settings.write_text(
            _SETTINGS.format(folder=folder / "data", parts="\n".join(parts), uri=quoteattr(uri))
        )

    def _command(self) -> Sequence[str | Path]:
        settings = f"xbean:{self._settings.as_uri()}"
        return [*self._java, "org.apache.activemq.console.Main", "start", settings]

    def _is_ready(self) -> bool:
        # The port is opened last, when the store has recovered.
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=2).close()
        except OSError:
            return False
        return True


_SETTINGS: Final = """\
<beans xmlns="http://www.springframework.org/schema/beans"
       xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
       xsi:schemaLocation="http://www.springframework.org/schema/beans
                           http://www.springframework.org/schema/beans/spring-beans.xsd
                           http://activemq.apache.org/schema/core
                           http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="tests"
          dataDirectory="{folder}" useJmx="false" persistent="true">
{parts}
    <transportConnectors><transportConnector name="stomp" uri={uri}/></transportConnectors>
  </broker>
</beans>
"""


def _login(users: Mapping[str, str]) -> str:
    entries = []
    for name, password in users.items():
        group = "guests" if name.startswith("guest") else "all"
        values = f"username={quoteattr(name)} password={quoteattr(password)}"
        entries.append(f"<authenticationUser {values} groups={quoteattr(group)}/>")
    rights = []
    for kind, name, groups in (
        *(("queue", ">", "all"), ("topic", ">", "all")),
        *(("queue", "Consumer.*.VirtualTopic.open.>", "all,guests"),),
        *(("topic", "VirtualTopic.open.>", "all,guests"),),
        *(("topic", "ActiveMQ.Advisory.>", "all,guests"),),
    ):
        granted = f'read="{groups}" write="{groups}" admin="{groups}"'
        rights.append(f"<authorizationEntry {kind}={quoteattr(name)} {granted}/>")
    return (
        "<plugins><simpleAuthenticationPlugin><users>"
        + "".join(entries)
        + "</users></simpleAuthenticationPlugin>"
        + "<authorizationPlugin><map><authorizationMap><authorizationEntries>"
        + "".join(rights)
        + "</authorizationEntries></authorizationMap></map></authorizationPlugin></plugins>"
    )


def _tls(keys: Path, trusted: Path | None) -> str:
    stores = [("keyStore", keys)] + ([("trustStore", trusted)] if trusted else [])
    values = " ".join(
        f'{name}={quoteattr(path.as_uri())} {name}Password="{STORE_PASSWORD}" {name}Type="PKCS12"'
        for name, path in stores
    )
    return f"<sslContext><sslContext {values}/></sslContext>"


@contextmanager
def activemq(
    *,
    users: Mapping[str, str] | None = None,
    keys: Path | None = None,
    trusted: Path | None = None,
    max_frame_bytes: int = 104_857_600,
) -> Iterator[ActiveMqServer]:
    """Run a new, empty broker in a temporary folder until the block ends; see `ActiveMqServer`.

    Raises `ServerAbsentError` where Java or the jars are missing, and `ServerError` if the broker
    does not start.
    """
    with tempfile.TemporaryDirectory(prefix="outbox-activemq-", ignore_cleanup_errors=True) as path:
        server = ActiveMqServer(
            Path(path),
            users=users or {},
            keys=keys,
            trusted=trusted,
            max_frame_bytes=max_frame_bytes,
        )
        try:
            server.start()
            yield server
        finally:
            server.stop()
