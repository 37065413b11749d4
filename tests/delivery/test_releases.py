"""Releases: what is published comes back whole or not at all, in a folder and on an S3 server on loopback."""

import json
from pathlib import Path

import pandas as pd
import pytest

from meddiff.delivery.releases import MANIFEST, Release, fetch, list_releases, publish
from meddiff.errors import MeddiffError
from meddiff.evaluation.bootstrap import Interval
from meddiff.evaluation.quality import Quality
from meddiff.evaluation.summary import Summary
from meddiff.layout import Layout
from meddiff.outputs.samples import final_mask, sample_image
from meddiff.params import Params
from meddiff.services.catalog import list_actions
from meddiff.services.storage import FolderStore, ObjectStore
from tests.shards import change

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_release_comes_back_whole(layout: Layout, store: ObjectStore, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    published = publish(layout, Params(), store, "v1", lambda done, total, values: steps.append((done, total)))
    assert steps == [(i, 10) for i in range(1, 11)]
    assert (published.pairs, published.generators, published.url) == (4, ("abc",), f"{store.url}v1")
    dest = tmp_path / "fetched"
    assert fetch(store, "v1", dest) == published == list_releases(store)[0]
    assert {path.name for path in dest.iterdir()} == {"images", "masks", "samples.csv", "README.md", MANIFEST}
    for id, batch in (("s01", "b0000"), ("s12", "b0001")):
        assert (dest / "images" / f"{id}.png").read_bytes() == sample_image(layout.synthetic, batch, id).read_bytes()
        assert (dest / "masks" / f"{id}.png").read_bytes() == final_mask(layout.filtered, id).read_bytes()
    table = pd.read_csv(dest / "samples.csv")
    assert table["id"].tolist() == ["s01", "s02", "s11", "s12"]
    assert {"seed", "background", "similarity", "generator"} <= set(table)


def test_who_released_is_recorded(layout: Layout, share: FolderStore) -> None:
    publish(layout, Params(), share, "v1")
    (row,) = list_actions(layout, Params())
    assert (row.action, row.subject, row.reason) == ("released", f"{share.url}v1", "4 pairs of generator abc")


def test_a_fetched_release_is_a_dataset(layout: Layout, store: ObjectStore, tmp_path: Path) -> None:
    from meddiff.datasets.adapters.folder import folder

    publish(layout, Params(), store, "v1")
    fetch(store, "v1", tmp_path / "fetched")
    assert sorted(case.id for case in folder(tmp_path / "fetched")) == ["s01", "s02", "s11", "s12"]


def test_the_manifest_holds_no_secret_and_no_path_of_this_machine(layout: Layout, store: ObjectStore, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDDIFF_CATALOG_URL", f"sqlite:///{tmp_path / 'catalog.db'}")  # the one in the settings isn't there
    params = Params.model_validate({"prepare": {"path": "/home/me/images"}, "foundation": {"source": "/home/me/model"},
                                    "catalog": {"url": "postgresql+psycopg://me:geheim@db/x"}})
    publish(layout, params, store, "v1")
    text = (store.get(f"v1/{MANIFEST}") or b"").decode() + (store.get("v1/README.md") or b"").decode()
    assert "/home/me" not in text
    assert "geheim" not in text
    assert json.loads(store.get(f"v1/{MANIFEST}") or b"")["params"]["foundation"]["source"] == "model"


def test_the_card_tells_how_it_was_made_and_what_it_is_not(layout: Layout, store: ObjectStore) -> None:
    publish(layout, Params(), store, "v1")
    card = (store.get("v1/README.md") or b"").decode()
    assert "4 of 6 samples (67%) were accepted" in card
    assert "| rejected: copy | 2 |" in card
    assert "Not privacy-preserving" in card
    assert "Not measured: no evaluation" in card


@pytest.mark.parametrize(("accepted", "told"), [
    (4, "raised the Dice: +2.0 Dice points"),
    (5, "Not measured: the last evaluation"),
])
def test_the_card_tells_the_gain_of_these_pairs_alone(layout: Layout, store: ObjectStore, accepted: int, told: str) -> None:
    layout.report.mkdir(parents=True)
    summary = Summary(arms={}, gain=Interval(0.02, 0.01, 0.03, 0.95, 40, 3), by_size={}, excluded={},
                      quality=Quality(6, accepted, 2, 2, 0, {}), n_real=30, n_synthetic=4, steps=300)
    (layout.report / "summary.json").write_text(json.dumps(summary.as_json()))
    publish(layout, Params(), store, "v1")
    assert told in (store.get("v1/README.md") or b"").decode()


def test_a_name_is_used_once(layout: Layout, store: ObjectStore) -> None:
    first = publish(layout, Params(), store, "v1")
    with pytest.raises(MeddiffError, match="never overwritten"):
        publish(layout, Params(), store, "v1")
    assert list_releases(store) == [first]
    for name in ("", "../v2", "a/b", ".hidden", "x" * 101):
        with pytest.raises(MeddiffError, match="at most 100 letters"):
            publish(layout, Params(), store, name)


class Cut:
    """A store whose line breaks after some objects."""

    def __init__(self, store: ObjectStore) -> None:
        self.url, self.folders, self.get, self.left, self._put = store.url, store.folders, store.get, 5, store.put

    def put(self, key: str, data: bytes) -> bool:
        self.left -= 1
        if self.left < 0:
            raise MeddiffError(self.url + key, "the endpoint must answer", "Start the server")
        return self._put(key, data)


def test_half_a_release_is_none_and_goes_on(layout: Layout, store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(MeddiffError, match="must answer"):
        publish(layout, Params(), Cut(store), "v1")
    assert store.folders() == ["v1"]
    assert list_releases(store) == []
    with pytest.raises(MeddiffError, match="no complete release of this name"):
        fetch(store, "v1", tmp_path / "fetched")
    assert publish(layout, Params(), store, "v1").pairs == 4
    assert fetch(store, "v1", tmp_path / "fetched").pairs == 4


def test_other_content_under_an_unfinished_name_is_refused(layout: Layout, store: ObjectStore) -> None:
    store.put("v1/images/s01.png", b"of someone else")
    with pytest.raises(MeddiffError, match=r"images/s01\.png: an unfinished release v1 of other content"):
        publish(layout, Params(), store, "v1")
    assert list_releases(store) == []


def test_nothing_accepted_or_a_missing_file(layout: Layout, store: ObjectStore) -> None:
    change(layout.filtered / "masks.parquet", "s01", mask=None)
    with pytest.raises(MeddiffError, match=r"masks\.parquet \(mask of s01\): the row has no picture"):
        publish(layout, Params(), store, "v1")
    table = pd.read_parquet(layout.filtered / "decisions.parquet").assign(verdict="rejected")
    table.to_parquet(layout.filtered / "decisions.parquet")
    with pytest.raises(MeddiffError, match="at least one accepted pair"):
        publish(layout, Params(), store, "v2")


def tamper(share: FolderStore, key: str, data: bytes | None) -> None:
    path = share.root / key
    path.unlink()
    if data is not None:
        path.write_bytes(data)


@pytest.mark.parametrize(("data", "fault"), [(b"other bytes", "isn't what was published"), (None, "is missing")])
def test_a_corrupted_object_is_named_and_the_old_folder_stays(layout: Layout, share: FolderStore, tmp_path: Path,
                                                               data: bytes | None, fault: str) -> None:
    publish(layout, Params(), share, "v1")
    dest = tmp_path / "fetched"
    fetch(share, "v1", dest)
    before = snapshot(dest)
    tamper(share, "v1/masks/s11.png", data)
    with pytest.raises(MeddiffError, match=f"share/v1/masks/s11.png: the object {fault}"):
        fetch(share, "v1", dest)
    assert snapshot(dest) == before
    assert [path.name for path in tmp_path.iterdir() if "fetched" in path.name] == ["fetched"]


@pytest.mark.parametrize("path", ["../evil.png", "images/../../evil.png", "/etc/evil.png", "images/a/b.png",
                                  "images/..\\evil.png", "evil.sh", "images/.png", MANIFEST])
def test_a_manifest_cannot_write_elsewhere(layout: Layout, share: FolderStore, tmp_path: Path, path: str) -> None:
    publish(layout, Params(), share, "v1")
    manifest = json.loads(share.get(f"v1/{MANIFEST}") or b"")
    manifest["files"][path] = manifest["files"]["README.md"]
    tamper(share, f"v1/{MANIFEST}", json.dumps(manifest).encode())
    with pytest.raises(MeddiffError, match="Don't trust this release"):
        fetch(share, "v1", tmp_path / "deep/fetched")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("change", [
    {"name": "v2"}, {"format": "meddiff-release/9"}, {"files": 3},
    {"files": {"images/a.png": {"sha256": "0" * 64, "size": 1}}},
    {"files": {"README.md": {"sha256": "no hash", "size": 1}}},
])
def test_an_unsound_manifest(layout: Layout, share: FolderStore, tmp_path: Path, change: dict[str, object]) -> None:
    publish(layout, Params(), share, "v1")
    manifest = json.loads(share.get(f"v1/{MANIFEST}") or b"") | change
    tamper(share, f"v1/{MANIFEST}", json.dumps(manifest).encode())
    with pytest.raises(MeddiffError, match=f"v1/{MANIFEST}: the manifest must"):
        fetch(share, "v1", tmp_path / "fetched")


def test_fetch_replaces_nothing_but_a_release(layout: Layout, store: ObjectStore, tmp_path: Path) -> None:
    publish(layout, Params(), store, "v1")
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(MeddiffError, match="new or empty folder"):
        fetch(store, "v1", precious)
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_several_releases_are_listed_in_order(layout: Layout, store: ObjectStore) -> None:
    store.put("notes/readme.txt", b"not a release")
    store.put(f"elsewhere/{MANIFEST}", b'{"format": "of another program"}')
    made: list[Release] = [publish(layout, Params(), store, name) for name in ("b", "a")]
    assert list_releases(store) == sorted(made, key=lambda release: (release.created, release.name))


def test_an_interrupted_fetch_leaves_nothing(layout: Layout, store: ObjectStore, tmp_path: Path) -> None:
    publish(layout, Params(), store, "v1")

    def interrupt(done: int, total: int, values: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(store, "v1", tmp_path / "fetched", interrupt)
    assert not list(tmp_path.glob("*fetched*"))
