"""Servers written in Java: their jars from Maven Central, and the Java that runs them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.servers.process import ServerAbsentError, ServerError

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Jars:
    """The jars of one server: those that `tools/NAME-pom.xml` names, and what they need."""

    name: str
    """Also that of their folder in `.cache`."""
    is_archive: bool = False
    """The file names one archive instead, which is to be unpacked."""

    @property
    def folder(self) -> Path:
        return _ROOT / ".cache" / self.name

    def fetch(self) -> Path:
        """Return their folder, downloaded by Maven the first time.

        Raises `ServerAbsentError` without Maven, `ServerError` if the download fails.
        """
        if self.folder.is_dir():
            return self.folder
        maven = find_maven()
        self.folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder.parent, prefix=f"{self.name}-") as path:
            pom = _ROOT / "tools" / f"{self.name}-pom.xml"
            goal = ["dependency:copy-dependencies", "-DincludeScope=runtime"]
            if self.is_archive:
                goal = ["dependency:unpack"]
            done = subprocess.run(
                [maven, "-B", "-q", "-f", pom, *goal, f"-DoutputDirectory={path}/jars"],
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                raise ServerError(
                    f"Maven could not download {self.name}:\n{done.stdout}{done.stderr}"
                )
            # Renamed when complete: half a download never looks like a whole one.
            (Path(path) / "jars").rename(self.folder)
        return self.folder

    def find(self) -> Path:
        """Return their folder without downloading; raise `ServerAbsentError` if it is not there.

        The same without `java`, which nothing could run them without.
        """
        find_java()
        if not self.folder.is_dir():
            raise ServerAbsentError(
                f"the jars of {self.name} are not in {self.folder}; download them by: make servers"
            )
        return self.folder


def find_java() -> str:
    """Return the path of `java`; raise `ServerAbsentError` if it is not on PATH."""
    java = shutil.which("java")
    if java is None:
        raise ServerAbsentError(
            "java is not on PATH; install Java 17 or newer "
            "(Debian: apt-get install default-jre-headless)"
        )
    return java


def find_maven() -> str:
    """Return the path of `mvn`; raise `ServerAbsentError` if it is not on PATH."""
    maven = shutil.which("mvn")
    if maven is None:
        raise ServerAbsentError("Maven is not on PATH; install it (Debian: apt-get install maven)")
    return maven
