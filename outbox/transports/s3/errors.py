"""The one border where errors of boto3 become ours, decided by their classes and codes alone."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProxyConnectionError,
    SSLError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from urllib3.exceptions import HTTPError

from outbox.errors import (
    BrokerUnavailableError,
    DestinationRefusedError,
    OutboxError,
    RecordRefusedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from outbox.transports.s3.options import Options

CALL_ERRORS: Final = (ClientError, BotoCoreError, HTTPError)
"""All that a call of boto3 raises on purpose, and what it lets through: an answer broke off."""

ABSENT: Final = frozenset({"NoSuchKey", "404"})
"""There is no such object."""
TAKEN: Final = frozenset({"PreconditionFailed", "412"})
"""A conditional write came second."""

DAMAGED: Final = frozenset({"BadDigest", "InvalidDigest"})
"""What arrived is not what the client says that it sent."""

_KEYS: Final = (
    "correct access_key_id and secret_access_key, or what boto3's chain of credentials finds"
)
_EXPIRED: Final = "renew session_token, or let a role_arn be assumed"
_RIGHTS: Final[Mapping[str, str]] = {
    # Without the right to list, an object that is not there is forbidden as well.
    "GetObject": "s3:GetObject and s3:ListBucket on it, and kms:Decrypt on the key of kms_key_id",
    "PutObject": "s3:PutObject on it, and kms:GenerateDataKey on the key of kms_key_id",
    "ListObjectsV2": "s3:ListBucket on it",
    "DeleteObject": "s3:DeleteObject on it",
}
"""By what was asked for."""
_FORBIDDEN: Final = frozenset({"AccessDenied", "AllAccessDisabled", "403"})
_KMS: Final = "correct kms_key_id, or the state of that key"
_REMEDIES: Final[Mapping[str, str]] = {
    "NoSuchBucket": "create it, or correct `bucket`",
    "InvalidBucketName": "correct `bucket`",
    "InvalidAccessPoint": "correct `bucket`",
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "InvalidClientTokenId": _KEYS,
    "UnrecognizedClientException": _KEYS,
    "AuthFailure": _KEYS,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "RequestTimeTooSkewed": "set this machine's clock",
    "AuthorizationHeaderMalformed": "correct `region`",
    "PermanentRedirect": "correct `region` or endpoint_url",
    "TemporaryRedirect": "correct `region` or endpoint_url",
    "IllegalLocationConstraintException": "correct `region`",
    "NotImplemented": "the server lacks server_side_encryption, or conditional writes",
}
_BUSY: Final = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "InternalError",
        "ServiceUnavailable",
        "OperationAborted",
        "ConditionalRequestConflict",
    }
)
"""It may go through a little later."""
_UNFIT: Final = frozenset({"EntityTooLarge", "KeyTooLongError"})


def code_of(error: ClientError | BotoCoreError | HTTPError) -> str | None:
    """Return the server's code; None where it did not answer."""
    if not isinstance(error, ClientError):
        return None
    return str(error.response.get("Error", {}).get("Code", ""))


def translate(error: ClientError | BotoCoreError | HTTPError, options: Options) -> OutboxError:
    """Return the error of ours that says what to do; no secret is in its text."""
    where = f"the bucket {options.bucket!r}"
    if isinstance(error, ClientError):
        return _answered(error, options, where)
    if isinstance(error, NoCredentialsError | PartialCredentialsError | NoRegionError):
        return DestinationRefusedError(
            f"{where}: no credentials or no region were found; set access_key_id,"
            " secret_access_key and region, or give boto3 what its own chain looks for"
        )
    if isinstance(error, CredentialRetrievalError | TokenRetrievalError):
        return DestinationRefusedError(
            f"{where}: boto3 could not get credentials ({type(error).__name__}); {_KEYS}"
        )
    if isinstance(error, SSLError):
        return DestinationRefusedError(
            f"{where}: TLS failed{_at(options)}; correct endpoint_url, or the certificates that"
            " this machine or AWS_CA_BUNDLE trusts"
        )
    if isinstance(error, BotoConnectionError | HTTPClientError | ProxyConnectionError | HTTPError):
        remedy = "region" if options.endpoint_url is None else "endpoint_url"
        return BrokerUnavailableError(
            f"{where} cannot be reached{_at(options)}: {type(error).__name__}; correct {remedy} if"
            " that is no outage"
        )
    return DestinationRefusedError(
        f"{where}: boto3 cannot make this request ({type(error).__name__}); correct the route's"
        " settings"
    )


def _at(options: Options) -> str:
    url = options.endpoint_url
    # Without a login that somebody may have put into it.
    return "" if url is None else f" at {url.scheme}://{url.host}:{url.port}"


def _answered(error: ClientError, options: Options, where: str) -> OutboxError:
    code = code_of(error) or ""
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"{error.operation_name} was answered {status} {code}"
    is_failing = status >= HTTPStatus.INTERNAL_SERVER_ERROR and code != "NotImplemented"
    if is_failing or code in _BUSY or status == HTTPStatus.TOO_MANY_REQUESTS:
        return BrokerUnavailableError(f"{where} is busy or out of order: {said}")
    if code in _UNFIT:
        return RecordRefusedError(f"{where} can never take the event: {said}")
    if error.operation_name.startswith("AssumeRole"):
        return DestinationRefusedError(
            f"the role {options.role_arn} cannot be assumed; correct role_arn and external_id, or"
            f" the role's trust policy ({said})"
        )
    if code.startswith("KMS."):
        return DestinationRefusedError(f"{where}: {_KMS} ({said})")
    remedy = _REMEDIES.get(code, "correct the route's settings")
    if code in _FORBIDDEN:
        remedy = f"grant {_RIGHTS.get(error.operation_name, 'what is asked for')}"
    return DestinationRefusedError(f"{where} refuses this client; {remedy} ({said})")
