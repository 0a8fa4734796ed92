"""What is wrong with a client's TLS settings, in words that name the setting.

librdkafka says the same of an expired certificate, an unknown issuer and a host name that is not in
the certificate, and of a missing file no more than that a library failed. Python's own `ssl` has a
code for each: it reads the same files and verifies the same certificate.
"""

from __future__ import annotations

import ssl
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

CA: Final = "ssl.ca.location"
CERTIFICATE: Final = "ssl.certificate.location"
KEY: Final = "ssl.key.location"
KEY_PASSWORD: Final = "ssl.key.password"  # noqa: S105  # the name of a setting

_UNKNOWN_ISSUER: Final = (
    "a CA that this client does not know has signed it; let ssl_ca_location name the certificate of"
    " that CA"
)
_WRONG_HOST: Final = (
    "it is for another host; write a name that stands in it into bootstrap_servers, or have it"
    " issued for this one"
)
_VERIFY: Final = {
    9: "it is not valid yet; compare the clock of this machine, or have it renewed",
    10: "it has expired; have it renewed at the broker, or compare the clock of this machine",
    18: _UNKNOWN_ISSUER,
    19: _UNKNOWN_ISSUER,
    20: _UNKNOWN_ISSUER,
    21: _UNKNOWN_ISSUER,
    62: _WRONG_HOST,
    64: _WRONG_HOST,
}
"""What to do, by X509_V_ERR of OpenSSL."""
_REASONS: Final = {
    "KEY_VALUES_MISMATCH": (
        "ssl_key_location is not the key of the certificate that ssl_certificate_location names"
    ),
    "NO_CERTIFICATE_OR_CRL_FOUND": "ssl_ca_location names a file without a certificate in PEM",
}
"""What is wrong with files that can be read, by OpenSSL's reason."""


_ELSEWHERE: Final = ("ssl.certificate.pem", "ssl.key.pem", "ssl.keystore.", "ssl.engine.")
"""Settings by which librdkafka shows a certificate that Python cannot."""


class Credentials(Enum):
    """The certificate that we show in the place of librdkafka."""

    NONE = "none"
    SHOWN = "shown"
    UNKNOWN = "unknown"


class SettingError(Exception):
    """A TLS setting is wrong; the text names it."""


def context(settings: Mapping[str, str]) -> ssl.SSLContext:
    """Return what Python needs to connect as librdkafka would with these settings.

    Keys and certificates that stand in the settings themselves, or in a PKCS#12 store, are left
    out. Raises `SettingError`.
    """
    made = ssl.create_default_context(cadata=settings.get("ssl.ca.pem"))
    if settings.get("ssl.endpoint.identification.algorithm") == "none":
        made.check_hostname = False
    if settings.get("enable.ssl.certificate.verification") == "false":
        made = unverified()
    ca = settings.get(CA)
    if ca and ca != "probe":
        _readable(CA, ca)
        is_folder = Path(ca).is_dir()
        try:
            made.load_verify_locations(None if is_folder else ca, ca if is_folder else None)
        except ssl.SSLError as exc:
            raise SettingError(_because(exc, "ssl_ca_location cannot be read")) from exc
    certificate, key = settings.get(CERTIFICATE), settings.get(KEY)
    for name, path in ((CERTIFICATE, certificate), (KEY, key)):
        if path:
            _readable(name, path)
    if certificate and not (key or "ssl.key.pem" in settings):
        raise SettingError("ssl_key_location is missing; it names the key of the certificate")
    if certificate and key:
        try:
            # Without a password Python would ask for one at the terminal.
            made.load_cert_chain(certificate, key, settings.get(KEY_PASSWORD, ""))
        except ssl.SSLError as exc:
            raise SettingError(
                _because(
                    exc,
                    "the key in ssl_key_location cannot be read: ssl_key_password is not its"
                    " passphrase, or one of ssl_key_location and ssl_certificate_location is no"
                    " PEM file",
                )
            ) from exc
    return made


def unverified() -> ssl.SSLContext:
    """Return a context that takes any certificate, to find out whether TLS is spoken at all."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def credentials(settings: Mapping[str, str]) -> Credentials:
    """Return what is known of the certificate that a client shows."""
    if any(name.startswith(_ELSEWHERE) for name in settings):
        return Credentials.UNKNOWN
    return Credentials.SHOWN if CERTIFICATE in settings else Credentials.NONE


def refusal(error: ssl.SSLError, address: str, shown: Credentials) -> str | None:
    """Say why certificates were not accepted; None where it may be about something else."""
    if isinstance(error, ssl.SSLCertVerificationError):
        what = _VERIFY.get(error.verify_code, f"{error.verify_message}; see the ssl settings")
        return f"the certificate of the broker at {address} is not accepted: {what}"
    if "_ALERT_" not in (error.reason or "") or shown is Credentials.UNKNOWN:
        return None
    if shown is Credentials.SHOWN:
        return (
            f"the broker at {address} does not accept this client's certificate; let"
            " ssl_certificate_location and ssl_key_location name one whose CA the broker trusts"
        )
    return (
        f"the broker at {address} asks for a client certificate; set ssl_certificate_location and"
        " ssl_key_location"
    )


def _readable(name: str, path: str) -> None:
    try:
        if not Path(path).is_dir():
            Path(path).open("rb").close()
    except OSError as exc:
        setting = name.replace(".", "_")
        raise SettingError(f"{setting}: {path}: {exc.strerror}") from exc


def _because(error: ssl.SSLError, otherwise: str) -> str:
    return _REASONS.get(error.reason or "", otherwise)
