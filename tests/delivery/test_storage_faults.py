"""Releases on an S3 server that fails, answers late, cuts its answers, and from processes that are killed as they upload."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from meddiff.delivery.releases import MANIFEST, fetch, list_releases, publish
from meddiff.errors import MeddiffError, ServiceError
from meddiff.layout import Layout
from meddiff.params import Params
from meddiff.services.storage import S3Store
from tests.faults.proxies import Proxy, first, never, standing_before

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture
def proxy(bucket: S3Store) -> Iterator[Proxy]:
    with standing_before(bucket.endpoint) as proxy:
        yield proxy


@pytest.fixture
def faulty(bucket: S3Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """The bucket behind the proxy, which it gives up sooner than otherwise."""
    monkeypatch.setattr("meddiff.services.storage.s3._READ_SECONDS", 5)
    return S3Store(bucket.bucket, bucket.prefix, proxy.address)


@pytest.mark.parametrize("kind", ["500", "gone", "silent", "taken", "short"])
def test_one_failure_of_the_server_is_survived(kind: str, layout: Layout, faulty: S3Store, proxy: Proxy, tmp_path: Path) -> None:
    proxy.fault = first(1, kind, "" if kind != "short" else "GET", "/images/s11")
    published = publish(layout, Params(), faulty, "v1")
    if kind != "silent":  # once is enough to wait for it
        proxy.fault = first(1, kind, "GET", "/images/s11")
    assert fetch(faulty, "v1", tmp_path / "fetched") == published
    assert sum("/images/s11" in path for _, path in proxy.asked) > 2


@pytest.mark.parametrize("kind", ["500", "short"])
def test_a_server_that_goes_on_failing_is_told_and_the_same_command_ends(
        kind: str, layout: Layout, bucket: S3Store, faulty: S3Store, proxy: Proxy, tmp_path: Path) -> None:
    if kind == "500":
        proxy.fault = first(10**6, kind, "PUT", "/masks/s12")
        with pytest.raises(ServiceError, match=r"s3://.*/v1/masks/s12\.png: http://127\.0\.0\.1:\d+ must do what is asked"):
            publish(layout, Params(), faulty, "v1")
        assert list_releases(bucket) == []
        proxy.fault = never
    publish(layout, Params(), faulty, "v1")
    proxy.fault = first(10**6, kind, "GET", "/masks/s12")
    with pytest.raises(ServiceError, match=r"/v1/masks/s12\.png"):
        fetch(faulty, "v1", tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    proxy.fault = never
    fetch(faulty, "v1", tmp_path / "fetched")
    assert (tmp_path / "fetched" / MANIFEST).is_file()


def test_killed_as_it_uploads_the_same_command_ends_the_release(layout: Layout, bucket: S3Store, proxy: Proxy) -> None:
    (layout.params).write_text("prepare:\n  seed: 0\n")
    command = [sys.executable, "-m", "meddiff", "release", "publish", "v1", bucket.url, "--endpoint", proxy.address]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def kill(method: str, path: str) -> str:
        if sum(asked == "PUT" for asked, _ in proxy.asked) == 5:
            process.kill()
        return ""

    proxy.fault = kill
    with subprocess.Popen(command, cwd=layout.root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert process.wait() == -9
    proxy.fault = never
    assert list_releases(bucket) == []
    there = bucket.client.list_objects_v2(Bucket=bucket.bucket)["Contents"]
    assert there
    with pytest.raises(MeddiffError, match="no complete release"):
        fetch(bucket, "v1", layout.root / "fetched")
    done = subprocess.run(command, cwd=layout.root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (release,) = list_releases(bucket)
    assert release.pairs == 4
    after = {each["Key"]: each["LastModified"] for each in bucket.client.list_objects_v2(Bucket=bucket.bucket)["Contents"]}
    assert all(after[each["Key"]] == each["LastModified"] for each in there), "what was there is left as it is"
    assert Counter(Path(key).name for key in after)["samples.csv"] == 1
