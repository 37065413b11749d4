"""Whole buckets to and from folders; an object's key is the path of its file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from meddiff.errors import MeddiffError, some


def bucket_client(endpoint: str, key: Mapping[str, str]) -> Any:
    """boto3's client of an S3-compatible server, with the account given and no other."""
    config = Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 3, "mode": "standard"},
                    request_checksum_calculation="when_required", response_checksum_validation="when_required")
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config,
                        aws_access_key_id=key["AWS_ACCESS_KEY_ID"], aws_secret_access_key=key["AWS_SECRET_ACCESS_KEY"])


def make_buckets(client: Any, names: tuple[str, ...]) -> list[str]:
    """Make the buckets that are missing, and name them; boto3's errors pass."""
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    missing = [name for name in names if name not in there]
    for name in missing:
        client.create_bucket(Bucket=name)
    return missing


def fetch_bucket(client: Any, bucket: str, folder: Path) -> None:
    """Write every object into the folder.

    Raises:
        MeddiffError: the server refuses, or a key is no path below the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for key in _keys(client, bucket):
        file = (folder / key).resolve()
        if not file.is_relative_to(folder.resolve()):
            raise MeddiffError(f"s3://{bucket}/{key}", "the key must be a path without `..`", "Rename or remove the object")
        file.parent.mkdir(parents=True, exist_ok=True)
        with _bucket_errors(bucket, key):
            client.download_file(bucket, key, str(file))


def fill_bucket(client: Any, bucket: str, folder: Path) -> None:
    """Put every file of the folder into the bucket.

    Raises:
        MeddiffError: the server refuses, or the bucket holds other objects than these afterwards.
    """
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for key, file in files.items():
        with _bucket_errors(bucket, key):
            client.upload_file(str(file), bucket, key)
    if other := set(_keys(client, bucket)) ^ set(files):
        raise MeddiffError(f"s3://{bucket}", f"it must hold the objects that were put and no other ({some(sorted(other))})",
                           "Begin with an empty bucket")


def _keys(client: Any, bucket: str) -> Iterator[str]:
    with _bucket_errors(bucket, ""):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            yield from (entry["Key"] for entry in page.get("Contents", ()) if not entry["Key"].endswith("/"))


@contextmanager
def _bucket_errors(bucket: str, key: str) -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error, OSError) as e:
        raise MeddiffError(f"s3://{bucket}/{key}", f"the S3 server must do what is asked ({e})", "Look at its log") from e
