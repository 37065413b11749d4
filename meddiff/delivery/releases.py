"""Releases of a synthetic dataset: published to an `ObjectStore`, listed, and fetched back with every hash checked.

A release is `NAME/` with `images/ID.png`, `masks/ID.png`, `samples.csv`, `README.md` and `manifest.json`. Objects are only
created, never overwritten, and the manifest goes last: without it there is no release, with it nothing changes any more. So a
publication that was cut short goes on by the same command, and two of different content under one name can't both end.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from meddiff import __version__
from meddiff.delivery.deliveries import note_delivery
from meddiff.delivery.release_card import release_card
from meddiff.errors import MeddiffError
from meddiff.layout import Layout, replacing
from meddiff.outputs.samples import Records, final_mask, read_records, sample_image
from meddiff.outputs.shards import InShard
from meddiff.outputs.withdrawals import refuse_withdrawn
from meddiff.params import Params
from meddiff.progress import Report, silent
from meddiff.services.catalog import record_action
from meddiff.services.storage import CONNECTIONS, ObjectStore

_FORMAT = "meddiff-release/1"
MANIFEST = "manifest.json"
_MARK = "withdrawn.txt"  # an object of a release that must not be used any more; says why
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FILE = re.compile(r"(images|masks)/(?!\.)[^/\\:\x00-\x1f]{1,200}\.png|samples\.csv|README\.md")
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Release:
    """A complete release.

    Attributes:
        url: where it lies.
        pairs: images with their mask.
        bytes: of all its files.
        generators: hashes of the models that made the samples.
        created: time of publication, ISO 8601, UTC.
        withdrawn: why it must not be used any more, empty otherwise.
    """

    name: str
    url: str
    pairs: int
    bytes: int
    generators: tuple[str, ...]
    created: str
    withdrawn: str = ""


def publish(layout: Layout, params: Params, store: ObjectStore, name: str, report: Report = silent) -> Release:
    """Upload the accepted pairs with a manifest of hashes and a dataset card.

    Args:
        name: letters, digits, `.`, `_` and `-`; must be free.
        report: called after each file.

    Raises:
        MeddiffError: the name is taken or not allowed, nothing was accepted, a file is missing, a patient was withdrawn of whom
            they were made, or the storage refuses.
    """
    if not _NAME.fullmatch(name):
        raise MeddiffError(f"release `{name}`", "a name has at most 100 letters, digits, dots, dashes and underscores",
                           "Choose another")
    records = read_records(layout.synthetic, layout.filtered)
    table = records.accepted
    if table.empty:
        raise MeddiffError(layout.filtered, "a release holds at least one accepted pair",
                           "Run `dvc repro filter`, or loosen its bounds")
    refuse_withdrawn(layout, sorted(set(table["generator"])), "published")
    _refuse_taken(store, name)
    manifest = {"format": _FORMAT, "name": name, "meddiff": __version__, "generators": sorted(set(table["generator"])),
                "counts": _counts(records), "params": _public(params)}
    content: dict[str, InShard | bytes] = {
        "samples.csv": table.to_csv(index=False, lineterminator="\n").encode(),
        "README.md": release_card(manifest, layout.report / "summary.json").encode()}
    for id, batch in zip(table["id"], table["batch"], strict=True):
        content[f"images/{id}.png"] = sample_image(layout.synthetic, batch, id)
        content[f"masks/{id}.png"] = final_mask(layout.filtered, id)

    def upload(path: str) -> tuple[str, dict[str, Any]]:
        data = source if isinstance(source := content[path], bytes) else source.read_bytes()
        _put(store, f"{name}/{path}", data, name)
        return path, {"sha256": _hash(data), "size": len(data)}

    files = dict(sorted(_parallel(upload, list(content), report)))
    manifest |= {"created": datetime.now(UTC).isoformat(timespec="seconds"), "files": files}
    release = _release(store, manifest)
    record_action(layout, params, "released", release.url, f"{release.pairs} pairs of generator {', '.join(release.generators)}")
    _put(store, f"{name}/{MANIFEST}", json.dumps(manifest, indent=1).encode(), name)
    note_delivery(layout, params, "release", name, store.url, release.generators, release.pairs)
    return release


def fetch(store: ObjectStore, name: str, dest: Path, report: Report = silent) -> Release:
    """Download a release into `dest`, in the layout of a `folder` dataset: `images/ID.png`, `masks/ID.png`.

    `dest` appears or changes only when every file has come with the hash and size that the manifest tells.

    Raises:
        MeddiffError: no complete release of this name, it is withdrawn, an object is missing or corrupt (its key is named), a
            manifest that isn't ours or names files elsewhere, a `dest` that holds anything but an earlier release, or storage
            that refuses.
    """
    dest = dest.resolve()
    if dest.exists() and not (dest.is_dir() and ((dest / MANIFEST).is_file() or not any(dest.iterdir()))):
        raise MeddiffError(dest, "a release goes into a new or empty folder, or replaces an earlier release",
                           "Choose another folder")
    manifest = _read_manifest(store, name)
    if why := _withdrawn(store, name):
        raise MeddiffError(f"{store.url}{name}", f"a release must not be withdrawn, and it is ({why})",
                           "Fetch another, and delete what you have of it")

    with replacing(dest) as fresh:
        def download(path: str) -> None:
            key, told = f"{name}/{path}", manifest["files"][path]
            data = store.get(key)
            if data is None or len(data) != told["size"] or _hash(data) != told["sha256"]:
                fault = "is missing" if data is None else "isn't what was published: hash or size differ from the manifest's"
                raise MeddiffError(store.url + key, f"the object {fault}", "Fetch again, or publish the dataset under a new name")
            target = fresh / path
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(data)

        _parallel(download, list(manifest["files"]), report)
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return _release(store, manifest)


def list_releases(store: ObjectStore) -> list[Release]:
    """The complete releases, the oldest first; unfinished ones and other folders are left out."""
    found = []
    for name in store.folders():
        data = store.get(f"{name}/{MANIFEST}") if _NAME.fullmatch(name) else None
        if data is not None and f'"{_FORMAT}"'.encode() in data:
            found.append(replace(_release(store, _checked(store, name, data)), withdrawn=_withdrawn(store, name)))
    return sorted(found, key=lambda release: (release.created, release.name))


def quarantine(store: ObjectStore, name: str, why: str) -> None:
    """Mark a release as withdrawn: it is neither fetched any more, nor is anything of it deleted."""
    store.put(f"{name}/{_MARK}", why.encode())


def _withdrawn(store: ObjectStore, name: str) -> str:
    return (store.get(f"{name}/{_MARK}") or b"").decode(errors="replace")


def _counts(records: Records) -> dict[str, Any]:
    """Samples by verdict, and by reason those that were left out."""
    decisions = records.decisions
    left = decisions[decisions["verdict"] != "accepted"]
    reasons = (left["verdict"] + ": " + left["reason"]).str.removesuffix(": ").value_counts().sort_index()
    return {"samples": len(records.samples), "accepted": int((decisions["verdict"] == "accepted").sum()),
            "reasons": {str(reason): int(n) for reason, n in reasons.items()}}


def _public(params: Params) -> dict[str, Any]:
    """The settings that shape the samples, without folders of this machine and service addresses, which may hold a password."""
    shaping = dict.fromkeys(("prepare", "foundation", "mask_model", "finetune", "generate", "filter"), True)
    kept = params.model_dump(mode="json", include=shaping | {"compute": {"precision"}})
    del kept["prepare"]["path"]
    if not params.foundation.revision:  # a local folder
        kept["foundation"]["source"] = Path(params.foundation.source).name
    return kept


def _put(store: ObjectStore, key: str, data: bytes, name: str) -> None:
    """Create an object, or find it there with this very content, as after a publication that was cut short."""
    if not store.put(key, data) and store.get(key) != data:
        _refuse_taken(store, name)
        raise MeddiffError(store.url + key, f"an unfinished release {name} of other content is in the way",
                           f"Choose another name, or delete {name}/")


def _refuse_taken(store: ObjectStore, name: str) -> None:
    if store.get(f"{name}/{MANIFEST}") is not None:
        raise MeddiffError(f"{store.url}{name}", "a release is never overwritten, and this name is taken", "Choose another name")


def _read_manifest(store: ObjectStore, name: str) -> dict[str, Any]:
    data = store.get(f"{name}/{MANIFEST}") if _NAME.fullmatch(name) else None
    if data is None:
        known = ", ".join(release.name for release in list_releases(store)) or "none yet"
        raise MeddiffError(f"{store.url}{name}", "there is no complete release of this name",
                           f"Choose one of those there: {known}")
    return _checked(store, name, data)


def _checked(store: ObjectStore, name: str, data: bytes) -> dict[str, Any]:
    """A manifest that can be trusted as far as its form goes: its own name, pairs, and no file outside the release."""
    where = f"{store.url}{name}/{MANIFEST}"
    try:
        manifest: dict[str, Any] = json.loads(data)
        files = manifest["files"]
        named = manifest["format"] == _FORMAT and manifest["name"] == name and {"created", "generators"} <= manifest.keys()
        sound = named and all(re.fullmatch("[0-9a-f]{64}", told["sha256"]) and int(told["size"]) >= 0 for told in files.values())
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise MeddiffError(where, f"the manifest must be that of a release ({e!r})", "Fetch another release") from e
    stranger = next((path for path in files if not _FILE.fullmatch(path)), None)
    if stranger is not None:
        raise MeddiffError(where, f"a release has PNG files in images/ and masks/, but the manifest names {stranger!r}",
                           "Don't trust this release")
    images, masks = ({path.partition("/")[2] for path in files if path.startswith(kind)} for kind in ("images/", "masks/"))
    if not sound or images != masks:
        raise MeddiffError(where, "the manifest must name this release, and give each image a mask, each file a hash and a size",
                           "Fetch another release")
    return manifest


def _release(store: ObjectStore, manifest: dict[str, Any]) -> Release:
    files = manifest["files"]
    return Release(manifest["name"], f"{store.url}{manifest['name']}", sum(path.startswith("images/") for path in files),
                   sum(told["size"] for told in files.values()), tuple(manifest["generators"]), manifest["created"])


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _parallel(work: Callable[[str], _Item], paths: Sequence[str], report: Report) -> list[_Item]:
    """Apply `work` to all paths in a few threads; the first error ends it."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        jobs = [pool.submit(work, path) for path in paths]
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                job.result()
                report(done, len(jobs), {})
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [job.result() for job in jobs]
