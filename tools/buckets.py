"""Buckets on the S3 server of tests, examples and benchmarks, which a URL with keys names."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
from botocore.config import Config

from tools.servers.s3 import REGION


def options_of(url: str, bucket: str) -> dict[str, str]:
    """Return what a route needs to use a bucket of the server at `http://KEY:SECRET@host:port`."""
    parts = urlsplit(url)
    return {
        "bucket": bucket,
        "endpoint_url": f"{parts.scheme}://{parts.hostname}:{parts.port}",
        "region": REGION,
        "access_key_id": unquote(parts.username or ""),
        "secret_access_key": unquote(parts.password or ""),
    }


def plain_client(url: str) -> Any:
    """Return a client of the server that is none of ours."""
    options = options_of(url, "")
    return boto3.client(
        "s3",
        endpoint_url=options["endpoint_url"],
        region_name=options["region"],
        aws_access_key_id=options["access_key_id"],
        aws_secret_access_key=options["secret_access_key"],
        config=Config(
            s3={"addressing_style": "path"}, request_checksum_calculation="when_required"
        ),
    )
