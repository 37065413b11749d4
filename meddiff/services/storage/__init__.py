"""Places for releases, one backend a file; the only room that imports boto3."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from meddiff.errors import MeddiffError
from meddiff.services.storage.buckets import bucket_client, fetch_bucket, fill_bucket, make_buckets
from meddiff.services.storage.folder import FolderStore
from meddiff.services.storage.protocol import CONNECTIONS, ObjectStore
from meddiff.services.storage.s3 import ENDPOINT_VARIABLE, S3Store, check_account

__all__ = ["CONNECTIONS", "ENDPOINT_VARIABLE", "FolderStore", "ObjectStore", "S3Store", "bucket_client", "check_account",
           "fetch_bucket", "fill_bucket", "make_buckets", "open_store"]


def open_store(url: str, endpoint_url: str | None = None) -> ObjectStore:
    """The storage behind an address: `s3://BUCKET`, `s3://BUCKET/PREFIX` or `file:///FOLDER`.

    Args:
        endpoint_url: of the S3-compatible server; else MEDDIFF_S3_ENDPOINT_URL, else as boto3 finds it (AWS_ENDPOINT_URL).

    Raises:
        MeddiffError: another form of address, or an endpoint that is no URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.netloc and not parts.query and not parts.fragment:
        return S3Store(parts.netloc, parts.path, endpoint_url or os.environ.get(ENDPOINT_VARIABLE) or None)
    if parts.scheme == "file" and url.startswith("file:///"):
        return FolderStore(Path(unquote(url.removeprefix("file://"))))
    raise MeddiffError(url, "storage has the form s3://BUCKET, s3://BUCKET/PREFIX or file:///FOLDER", "Correct the address")
