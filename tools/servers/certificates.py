"""Certificates of one test, as PEM files and as the stores that servers in Java read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from tools.servers.process import LOOPBACK, ServerAbsentError, ServerError

STORE_PASSWORD: Final = "changeit"  # noqa: S105  # it protects a certificate of one test


def find_openssl() -> str:
    """Return the path of `openssl`; raise `ServerAbsentError` if it is not on PATH."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise ServerAbsentError(
            "openssl is not on PATH; install it (Debian: apt-get install openssl)"
        )
    return openssl


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a key pair whose certificate, for loopback, is signed by itself.

    Return the PKCS#12 file for Java, and the certificate and key as one PEM file.
    """
    store, pem = folder / f"{name}.p12", folder / f"{name}.pem"
    _run(
        *(find_openssl(), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"),
        *("-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{LOOPBACK}"),
        *("-keyout", str(pem), "-out", f"{pem}.crt"),
    )
    pem.write_text(pem.read_text() + Path(f"{pem}.crt").read_text())
    _run(
        *(find_openssl(), "pkcs12", "-export", "-in", str(pem), "-out", str(store)),
        *("-name", name, "-passout", f"pass:{STORE_PASSWORD}"),
    )
    return store, pem


def make_trust(folder: Path, name: str, certificate: Path) -> Path:
    """Make a PKCS#12 file with which Java trusts a certificate."""
    store = folder / f"{name}-trust.p12"
    _run(
        *("keytool", "-importcert", "-noprompt", "-alias", name, "-file", f"{certificate}.crt"),
        *("-keystore", str(store), "-storetype", "PKCS12", "-storepass", STORE_PASSWORD),
    )
    return store


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise ServerError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
