"""Objects in S3-compatible storage."""

import base64
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
)

from meddiff.errors import MeddiffError, ServiceError
from meddiff.services.storage.protocol import CONNECTIONS

ENDPOINT_VARIABLE = "MEDDIFF_S3_ENDPOINT_URL"
_READ_SECONDS = 30  # without a byte
_ATTEMPTS = 3
_CREDENTIALS = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to an account that may use this bucket"


class S3Store:
    """A prefix of a bucket.

    Args:
        bucket: name of an existing bucket.
        prefix: put before every key; empty for the whole bucket.
        endpoint_url: of the S3-compatible server; None for what boto3 finds in AWS_ENDPOINT_URL or its profile, else AWS.
        region: None for what boto3 finds, else us-east-1, which servers other than AWS ignore.

    Credentials come from boto3's usual chain (environment, profile, instance role).

    Raises:
        MeddiffError: endpoint or profile can't be used.
    """

    def __init__(self, bucket: str, prefix: str = "", endpoint_url: str | None = None, region: str | None = None) -> None:
        self.bucket, self.prefix = bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        # Many S3-compatible servers don't know the checksum trailers that boto3 sends by default; `put` sends Content-MD5.
        retries = {"total_max_attempts": _ATTEMPTS, "mode": "standard"}
        config = Config(connect_timeout=5, read_timeout=_READ_SECONDS, retries=retries,
                        max_pool_connections=CONNECTIONS, request_checksum_calculation="when_required",
                        response_checksum_validation="when_required")
        try:
            session = boto3.Session()
            region = region or session.region_name or "us-east-1"
            self.client: Any = session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config)
        except (BotoCoreError, ValueError) as e:
            remedy = "Correct AWS_PROFILE" if isinstance(e, ProfileNotFound) else "Give it as http://HOST:PORT or https://HOST"
            raise MeddiffError(self.url, f"the endpoint and profile must be usable ({e})", remedy) from e
        self.endpoint = str(self.client.meta.endpoint_url)

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def put(self, key: str, data: bytes) -> bool:
        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        for attempt in range(1, _ATTEMPTS + 1):
            with self._errors(key):
                try:
                    name = {"Bucket": self.bucket, "Key": self.prefix + key}
                    self.client.put_object(**name, Body=data, ContentMD5=digest, IfNoneMatch="*")
                except ClientError as e:
                    if _code(e) in ("PreconditionFailed", "412"):
                        return False
                    # 409: another writer is putting the same name at this moment.
                    if _code(e) not in ("ConditionalRequestConflict", "409") or attempt == _ATTEMPTS:
                        raise
                    time.sleep(attempt)
                else:
                    return True
        raise AssertionError("the last attempt returned or raised")

    def get(self, key: str) -> bytes | None:
        for attempt in range(1, _ATTEMPTS + 1):
            with self._errors(key):
                try:
                    data: bytes = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
                except ClientError as e:
                    if _code(e) == "NoSuchKey":
                        return None
                    raise
                except (IncompleteReadError, ResponseStreamingError, ReadTimeoutError):  # boto3 asks again for an answer alone
                    if attempt == _ATTEMPTS:
                        raise
                else:
                    return data
        raise AssertionError("the last attempt returned or raised")

    def folders(self) -> list[str]:
        with self._errors(""):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix, Delimiter="/")
            return sorted(entry["Prefix"][len(self.prefix):-1] for page in pages for entry in page.get("CommonPrefixes", ()))

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Tell the vendor's errors as ours, with bucket, key and remedy."""
        where = self.url + key if self.bucket else "S3"
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as e:
            raise MeddiffError(where, f"the storage needs credentials ({e})", _CREDENTIALS) from e
        except ParamValidationError as e:
            raise MeddiffError(where, "bucket and key must be valid S3 names", "Correct the s3:// address") from e
        except ClientError as e:
            failed = int(e.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500  # and may not the next time
            rule = f"({_code(e)}: {e.response.get('Error', {}).get('Message', '')})"
            if failed:
                raise ServiceError(where, f"{self.endpoint} must do what is asked {rule}", "Try again; its log tells more") from e
            raise MeddiffError(where, f"{self.endpoint} refused {rule}", _remedy(_code(e), self.bucket)) from e
        except (BotoCoreError, OSError) as e:
            raise ServiceError(where, f"{self.endpoint} must answer ({e})",
                               f"Start the server, check the network, or correct the endpoint, as in {ENDPOINT_VARIABLE}") from e


def check_account(endpoint_url: str | None = None) -> str:
    """Ask the server who we are, by listing the buckets; an account that may not do that is known all the same.

    Args:
        endpoint_url: None for MEDDIFF_S3_ENDPOINT_URL, else as boto3 finds it.

    Returns:
        The server's address.

    Raises:
        MeddiffError: it doesn't answer, or refuses the credentials.
    """
    store = S3Store("", endpoint_url=endpoint_url or os.environ.get(ENDPOINT_VARIABLE) or None)
    with store._errors(""):
        try:
            store.client.list_buckets()
        except ClientError as e:
            if _code(e) != "AccessDenied":
                raise
    return store.endpoint


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _remedy(code: str, bucket: str) -> str:
    if code in ("NoSuchBucket", "404"):
        return f"Create the bucket {bucket}, or correct its name"
    if code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403", "401"):
        return _CREDENTIALS
    return "Correct the address, the endpoint or AWS_REGION, or ask who runs the storage"
