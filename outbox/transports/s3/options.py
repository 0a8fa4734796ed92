"""The settings of a route on S3."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    model_validator,
)

from outbox.transports.s3.keys import GROUPS, LOG, KeyText
from outbox.transports.topic import TemplateText


def _folder(text: str) -> str:
    """Let a prefix end in a slash, so that it is a folder and no part of a name."""
    if text.startswith("/"):
        raise ValueError("it must not begin with a slash")
    folder = text if not text or text.endswith("/") else f"{text}/"
    if folder.startswith((LOG, GROUPS)):
        raise ValueError(f"{LOG} and {GROUPS} are used by this library")
    return folder


class Options(BaseModel):
    """The settings of a route on S3; no secret is ever shown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bucket: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/-]{3,255}$")]
    """Name of the bucket, or the ARN of an access point; it has to exist."""
    prefix: Annotated[str, AfterValidator(_folder)] = ""
    """Folder of the bucket that everything is kept in; routes with one prefix share one log."""
    key: KeyText | None = None
    """Template of an object's key below the prefix; by default type, day, sequence and id."""
    topic: TemplateText = "{type_prefix}"
    """Template of the topic's name, which consumers receive by."""
    format: Literal["json", "jsonl"] = "json"
    """An object for each event, or one for many, an event a line."""
    compression: Literal["none", "gzip", "zstd"] = "none"
    """Of the objects; adds `.gz` or `.zst` to their keys."""
    batch_events: Annotated[int, Field(ge=1, le=50_000)] = 1_000
    """Events that one object of `jsonl` has at most."""
    batch_bytes: Annotated[int, Field(ge=1_000, le=1_000_000_000)] = 8_000_000
    """Bytes that an object of `jsonl` with several events has at most, before compression."""
    max_object_bytes: Annotated[int, Field(ge=1_000_000, le=1_000_000_000)] = 10_000_000
    """Bytes of the largest event as JSON; a larger one becomes a dead letter."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 32
    """Objects that are stored or read at the same time."""
    endpoint_url: HttpUrl | None = None
    """Of an S3 server that is not Amazon's."""
    addressing_style: Literal["auto", "path", "virtual"] | None = None
    """Where the bucket's name stands; by default in the path if there is an `endpoint_url`."""
    region: str | None = None
    """By default what the environment or the profile says."""
    access_key_id: str | None = None
    """With `secret_access_key`; by default boto3's own chain finds credentials."""
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    role_arn: str | None = None
    """A role to assume with these credentials; it is assumed again before it expires."""
    external_id: SecretStr | None = None
    """What the role's trust policy may ask for."""
    server_side_encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    """Of every object; by default the bucket's own."""
    kms_key_id: str | None = None
    """The key for `aws:kms`; by default the account's own for S3."""
    partitions: Annotated[int, Field(ge=1, le=1_024)] = 32
    """Parts that a group's members share a topic by; fixed once the group has received."""
    member_seconds: Annotated[float, Field(ge=1, le=3_600)] = 60.0
    """After so many seconds without a sign, a member's partitions go to others."""
    poll_seconds: Annotated[float, Field(ge=0.01, le=60)] = 1.0
    """The longest pause between two looks for new events."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key need each other")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token needs access_key_id and secret_access_key")
        if self.external_id is not None and self.role_arn is None:
            raise ValueError("external_id needs role_arn")
        if self.kms_key_id is not None and self.server_side_encryption in {None, "AES256"}:
            raise ValueError("kms_key_id needs server_side_encryption = 'aws:kms'")
        return self

    @property
    def encryption(self) -> dict[str, str]:
        """Return what each request that stores an object says about its encryption."""
        asked = {
            "ServerSideEncryption": self.server_side_encryption,
            "SSEKMSKeyId": self.kms_key_id,
        }
        return {name: value for name, value in asked.items() if value is not None}
