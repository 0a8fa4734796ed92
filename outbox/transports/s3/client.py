"""The boto3 client of a route: its credentials, where it goes, and how long it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import BotoCoreError

from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from outbox.transports.s3.options import Options

_SESSION_NAME: Final = "outbox"
"""Of an assumed role, in the account's own log."""


def make_client(options: Options, *, connect_seconds: float, read_seconds: float) -> Any:
    """Make a client for several threads that never retries by itself.

    Raises `ConfigurationError` where boto3 cannot be set up so.
    """
    is_foreign = options.endpoint_url is not None
    style = options.addressing_style or ("path" if is_foreign else "auto")
    # Newer checksums are unknown to many other servers.
    checksums = "when_required" if is_foreign else "when_supported"
    config = Config(
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=options.concurrency + 1,
        s3={"addressing_style": style},
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
        tcp_keepalive=True,
    )
    try:
        return _session(options).client(
            "s3",
            endpoint_url=None if options.endpoint_url is None else str(options.endpoint_url),
            config=config,
        )
    except (BotoCoreError, ValueError) as exc:
        raise ConfigurationError(f"boto3 cannot be set up: {exc}") from exc


def _session(options: Options) -> boto3.Session:
    core = botocore.session.get_session()
    if options.region is not None:
        core.set_config_variable("region", options.region)
    if options.access_key_id is not None and options.secret_access_key is not None:
        token = options.session_token
        core.set_credentials(
            options.access_key_id,
            options.secret_access_key.get_secret_value(),
            None if token is None else token.get_secret_value(),
        )
    if options.role_arn is None:
        return boto3.Session(botocore_session=core)
    asked = {"RoleSessionName": _SESSION_NAME}
    if options.external_id is not None:
        asked["ExternalId"] = options.external_id.get_secret_value()
    fetcher = AssumeRoleCredentialFetcher(
        client_creator=core.create_client,
        source_credentials=core.get_credentials(),
        role_arn=options.role_arn,
        extra_args=asked,
    )
    assuming = botocore.session.get_session()
    if options.region is not None:
        assuming.set_config_variable("region", options.region)
    # botocore has no public way to hand a session credentials that renew themselves.
    assuming._credentials = DeferredRefreshableCredentials(  # noqa: SLF001
        fetcher.fetch_credentials, "assume-role"
    )
    return boto3.Session(botocore_session=assuming)
