"""One server process: started, watched, frozen, killed by its id, and never left behind."""

from __future__ import annotations

import os
import pwd
import random
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pwd import struct_passwd

LOOPBACK = "127.0.0.1"

# Below the range of outgoing connections: none of them takes a server's port while it is down.
_PORTS = range(15_000, 30_000)

# Waits until its input closes, which happens when our process ends, however it ends.
_WATCHDOG = 'read -r _; kill -s KILL -- "-$1" 2>/dev/null; rm -rf -- "$2"'


class ServerError(RuntimeError):
    """A server did not start, or ended on its own; the message holds the end of its log."""


class ServerAbsentError(ServerError):
    """A server's programs are not on this machine; the message says how to get them."""


def free_port() -> int:
    """Return a loopback port that nothing listens on now."""
    for port in random.SystemRandom().sample(_PORTS, k=100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise ServerError(f"no free port found between {_PORTS.start} and {_PORTS.stop}")


def unprivileged(name: str) -> struct_passwd | None:
    """Return the user to run a server as that refuses to be root; None for our own.

    It is `name`, or `nobody` where there is no such user.
    """
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    return users.get(name) or users["nobody"]


class ServerProcess:
    """A running server; its children are signalled with it.

    Should our own process end without stopping it, even by SIGKILL, a watchdog kills the server
    and removes `folder`. `owner` is the user that the server runs as; None is our own.
    """

    def __init__(
        self, command: Sequence[str | Path], *, folder: Path, log: Path, owner: struct_passwd | None
    ) -> None:
        self._name = Path(command[0]).name
        self._log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=owner.pw_uid if owner else None,
                group=owner.pw_gid if owner else None,
                extra_groups=[] if owner else None,
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", str(self._popen.pid), str(folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait_until(self, is_ready: Callable[[], bool], *, timeout_seconds: float) -> None:
        """Return once `is_ready()`; raise `ServerError` if the server ends or takes too long."""
        deadline = time.monotonic() + timeout_seconds
        while not is_ready():
            if self._popen.poll() is not None:
                self._end_watchdog()
                raise ServerError(
                    f"{self._name} ended with code {self._popen.returncode}:\n{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{self._name} is not ready after {timeout_seconds} s:\n{self.log_tail()}"
                )
            time.sleep(0.05)

    def log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])

    def stop(self, by: signal.Signals = signal.SIGTERM, *, timeout_seconds: float = 30) -> None:
        """Ask the server to end and wait for it; kill it if it takes too long."""
        self._popen.send_signal(by)
        self.resume()
        try:
            self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self._end_watchdog()

    def kill(self) -> None:
        """End the server and its children at once, as a power cut would."""
        self.pause()
        for pid in self._family():
            _signal(pid, signal.SIGKILL)
        self._popen.wait()
        self._end_watchdog()

    def pause(self) -> None:
        """Freeze the server and its children: connections stay open, nothing answers."""
        _signal(self.pid, signal.SIGSTOP)
        for pid in self._family():
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._family():
            _signal(pid, signal.SIGCONT)

    def _family(self) -> list[int]:
        if self._popen.poll() is not None:
            return []
        return [self.pid, *_children(self.pid)]

    def _end_watchdog(self) -> None:
        # Killed before its input closes: it must not signal a process id that is no longer ours.
        self._watchdog.kill()
        self._watchdog.communicate()


class Server(ABC):
    """A server in a folder of its own, on a fixed loopback port.

    Data and port outlive `stop()` and `kill()`; what a kill leaves is recovered by the next start.
    """

    name: ClassVar[str]
    """For people."""
    start_seconds: ClassVar[float] = 60
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, folder: Path, *, owner: struct_passwd | None = None) -> None:
        self.port = free_port()
        self._folder = folder
        self._owner = owner
        self._process: ServerProcess | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Return when it answers; raise `ServerError` with the end of its log otherwise."""
        log = self._folder / f"{type(self).__name__.lower()}.log"
        self._process = ServerProcess(
            self._command(), folder=self._folder, log=log, owner=self._owner
        )
        self._process.wait_until(self._is_ready, timeout_seconds=self.start_seconds)

    def stop(self) -> None:
        """Shut down in order, breaking open connections; does nothing to a stopped one."""
        if self._process is not None:
            self._process.stop(self.stop_signal)
            self._process = None

    def kill(self) -> None:
        """Kill -9, all of its processes."""
        self._running().kill()
        self._process = None

    def pause(self) -> None:
        """Freeze it; connections stay open and get no answer."""
        self._running().pause()

    def resume(self) -> None:
        """Let it go on."""
        self._running().resume()

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """Return what starts it."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Tell whether it answers."""

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise ServerError(f"{self.name} is not running; start() it first")
        return self._process


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _children(pid: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            yield int(stat.parent.name)
