"""Storage: a contract for every backend, and what may go wrong with each."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from meddiff.errors import MeddiffError
from meddiff.services.storage import ENDPOINT_VARIABLE, FolderStore, ObjectStore, S3Store, open_store

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


class TestStoreContract:
    """What every `ObjectStore` keeps."""

    def test_what_was_put_is_got(self, store: ObjectStore) -> None:
        data = bytes(range(256)) * 100
        assert store.put("a/ü b.bin", data) is True
        assert store.get("a/ü b.bin") == data
        assert store.put("a/empty", b"") is True
        assert store.get("a/empty") == b""

    def test_nothing_is_overwritten(self, store: ObjectStore) -> None:
        assert store.put("a/x", b"first") is True
        assert store.put("a/x", b"second") is False
        assert store.get("a/x") == b"first"

    def test_what_is_not_there(self, store: ObjectStore) -> None:
        assert store.get("a/x") is None
        assert store.folders() == []

    def test_folders(self, store: ObjectStore) -> None:
        for key in ("b/x", "a/x/y", "a/z", "top"):
            store.put(key, b"1")
        assert store.folders() == ["a", "b"]


def test_a_missing_bucket(s3: str) -> None:
    store = S3Store("meddiff-no-such-bucket", "x", s3)
    with pytest.raises(MeddiffError, match=r"s3://meddiff-no-such-bucket/x/a: .*NoSuchBucket.*Create the bucket"):
        store.put("a", b"1")
    for ask in (store.folders, lambda: store.get("a")):
        with pytest.raises(MeddiffError, match="NoSuchBucket"):
            ask()


def test_an_endpoint_that_does_not_answer(s3: str) -> None:
    with pytest.raises(MeddiffError, match=r"http://127\.0\.0\.1:1 must answer.*MEDDIFF_S3_ENDPOINT_URL"):
        S3Store("b", "", "http://127.0.0.1:1").put("a", b"1")


def test_no_credentials(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(MeddiffError, match=r"needs credentials.*Set AWS_ACCESS_KEY_ID"):
        S3Store("b", "", s3).get("x")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(MeddiffError, match="Correct AWS_PROFILE"):
        S3Store("b", "", s3)


@pytest.mark.parametrize("code", ["AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId"])
def test_refused_credentials(bucket: S3Store, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "GetObject")

    monkeypatch.setattr(bucket.client, "get_object", refuse)
    with pytest.raises(MeddiffError, match=f"{code}.*an account that may use this bucket"):
        bucket.get("x")


def test_addresses_of_buckets(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_store("s3://bucket/a/b/", "http://127.0.0.1:9").url == "s3://bucket/a/b/"
    assert open_store("s3://bucket").url == "s3://bucket/"
    assert "amazonaws.com" in open_store("s3://bucket").endpoint
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:7")
    assert open_store("s3://bucket").endpoint == "http://127.0.0.1:7"
    monkeypatch.setenv(ENDPOINT_VARIABLE, "http://127.0.0.1:8")
    assert open_store("s3://bucket").endpoint == "http://127.0.0.1:8"
    assert open_store("s3://bucket", "http://127.0.0.1:9").endpoint == "http://127.0.0.1:9"
    for wrong in ("bucket/x", "https://bucket/x", "s3:///x"):
        with pytest.raises(MeddiffError, match="s3://BUCKET"):
            open_store(wrong)
    with pytest.raises(MeddiffError, match="http://HOST:PORT"):
        open_store("s3://bucket", "127.0.0.1:9")


def test_addresses_of_folders(tmp_path: Path) -> None:
    place = tmp_path / "for all"
    store = open_store(place.as_uri())
    assert store.url == f"file://{tmp_path}/for%20all/"
    for ask in (store.folders, lambda: store.get("a/x"), lambda: store.put("a/x", b"1")):
        with pytest.raises(MeddiffError, match=r"for%20all/.*the folder must be there.*Mount the share"):
            ask()
    assert not list(tmp_path.iterdir())
    place.mkdir()
    assert store.put("a/x", b"1")
    assert (place / "a/x").read_bytes() == b"1"
    for wrong in (str(place), "file://host/x", "file:x"):
        with pytest.raises(MeddiffError, match="file:///FOLDER"):
            open_store(wrong)


def test_of_writers_at_the_same_moment_one_wins_and_nothing_is_left_over(share: FolderStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: share.put("a/x", b"%d" % i * 100_000), range(32)))
    assert won.count(True) == 1
    assert share.get("a/x") == b"%d" % won.index(True) * 100_000
    assert [str(path.relative_to(share.root)) for path in share.root.rglob("*")] == ["a", "a/x"]


def test_a_folder_that_refuses(share: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(MeddiffError, match=r"share/a/x: the folder must be .*know hard links \(Operation not permitted\)"):
        share.put("a/x", b"1")
    assert share.get("a/x") is None
    assert share.folders() == []
