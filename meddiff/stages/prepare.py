"""Stage `prepare`: from a raw dataset, or the demo phantoms, to checked square cases in three parts, and lesion-free backgrounds.

The whole dataset is decoded and checked into a staging folder before any earlier output is replaced.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meddiff.adapters import Frame, RawCase, decode, fit_square, in_memory, read
from meddiff.backgrounds import remove_lesion
from meddiff.cases import read_image, read_mask, sha256, write_image, write_mask
from meddiff.errors import MeddiffError
from meddiff.layout import Layout, replacing
from meddiff.params import Params, PrepareParams
from meddiff.phantoms import make_phantoms
from meddiff.progress import bar
from meddiff.splits import Member, Split, choose_labelled, near_duplicates, split, thumbnail
from meddiff.tracking import StageRun

ENOUGH_NORMAL = 8   # with fewer lesion-free images of the dataset, lesions are removed from the labelled training cases


@dataclass(frozen=True, eq=False)
class Staged:
    """A checked case whose square image (and mask, if it has a lesion) lies in the staging folder.

    Attributes:
        raw: where it came from.
        lesion: whether the mask holds anything.
        vanished: the mask holds something at the original size, but nothing at the chosen one.
        frame: the part of the square that shows the image.
        thumbnail: `[32, 32]` float32 gray levels of the whole original frame.
    """

    raw: RawCase
    lesion: bool
    vanished: bool
    frame: Frame
    thumbnail: NDArray[np.float32]


def run(layout: Layout, params: Params, tracker: StageRun) -> None:
    """Make `data/`: the split, three folders of cases, and the backgrounds.

    Raises:
        MeddiffError: the dataset breaks a rule (see `adapters`, `cases`, `splits`), has no lesion, or leaves no background.
    """
    settings = params.prepare
    raw = _list_cases(layout.root, settings)
    layout.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=layout.work) as folder:
        staging = Path(folder)
        staged = _stage([case for case in raw if case.annotated], settings, params.compute.threads, staging)
        usable = [case for case in staged if not case.vanished]
        if not any(case.lesion for case in usable):
            raise MeddiffError(settings.path, "one mask at least must hold a lesion", "Check the masks: all are empty")
        pairs = near_duplicates(np.stack([case.thumbnail for case in usable]), settings.duplicate_bits)
        members = [Member(case.raw.id, case.raw.group, case.lesion, case.raw.part) for case in usable]
        parts = split(members, pairs, settings.val_fraction, settings.test_fraction)
        labelled = choose_labelled(parts.parts["train"], parts.groups, settings.n_labelled, settings.seed)
        frames = {case.raw.id: case.frame for case in usable}
        tables, removed = _write(layout, staging, parts, labelled, frames)
    counts = _counts(raw, staged, parts, labelled, pairs, removed)
    _tell(counts, settings)
    tracker.metrics(counts)
    for name, table in tables.items():
        tracker.dataset(table, name, name)


def _list_cases(root: Path, settings: PrepareParams) -> list[RawCase]:
    if settings.dataset == "demo":
        return [in_memory(case) for lesion, n in ((True, settings.demo_cases), (False, settings.demo_normal))
                for case in make_phantoms(n, lesion, settings.size, settings.demo_modality, settings.seed)]
    return read(settings.dataset, root / settings.path)


def _stage(cases: list[RawCase], settings: PrepareParams, threads: int, staging: Path) -> list[Staged]:
    """Decode, check and resize each case into `staging`; as many are in memory as there are threads."""

    def stage(raw: RawCase) -> Staged:
        case = decode(raw)
        mask = np.zeros(case.image.shape[:2], np.uint8) if case.mask is None else case.mask
        fitted = fit_square(case.image, mask, settings.size, settings.fit)
        lesion = bool(fitted.mask.any())
        write_image(staging / "images" / f"{raw.id}.png", fitted.image)
        if lesion:
            write_mask(staging / "masks" / f"{raw.id}.png", fitted.mask)
        return Staged(raw, lesion, bool(mask.any()) and not lesion, fitted.frame, thumbnail(case.image))

    staged = []
    pool = ThreadPoolExecutor(threads)
    try:
        with bar("prepare") as report:
            for done, case in enumerate(pool.map(stage, cases), start=1):
                staged.append(case)
                report(done, len(cases), {})
    finally:
        pool.shutdown(cancel_futures=True)
    return staged


def _write(layout: Layout, staging: Path, parts: Split, labelled: tuple[str, ...],
           frames: dict[str, Frame]) -> tuple[dict[str, pd.DataFrame], int]:
    """Fill the output folders and swap them all in; return their tables and how many lesions were removed."""
    tables = {}
    split_file = layout.split.with_name(f".{layout.split.name}.new")
    layout.split.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as swaps:
        folder = swaps.enter_context(replacing(layout.backgrounds))
        tables["backgrounds"] = _write_backgrounds(folder, staging, parts, labelled, frames)
        for part, ids in parts.parts.items():
            folder = swaps.enter_context(replacing(layout.cases(part)))
            tables[part] = _write_part(folder, staging, ids, set(labelled if part == "train" else ids), parts.groups)
        split_file.write_text(json.dumps(parts.parts, indent=1) + "\n")
    split_file.replace(layout.split)
    return tables, int(tables["backgrounds"]["source"].str.startswith("removed:").sum())


def _write_part(folder: Path, staging: Path, ids: Iterable[str], annotated: set[str], groups: dict[str, str]) -> pd.DataFrame:
    """Move cases into `folder`; masks only of the annotated ones."""
    rows = []
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for id in ids:
        image, mask = f"images/{id}.png", f"masks/{id}.png"
        shutil.move(staging / image, folder / image)
        if id in annotated:
            shutil.move(staging / mask, folder / mask)
        rows.append({"id": id, "group": groups[id], "labelled": int(id in annotated), "image_sha256": sha256(folder / image),
                     "mask_sha256": sha256(folder / mask) if id in annotated else ""})
    table = pd.DataFrame(rows)
    table.to_csv(folder / "cases.csv", index=False, lineterminator="\n")
    return table


def _write_backgrounds(folder: Path, staging: Path, parts: Split, labelled: tuple[str, ...],
                       frames: dict[str, Frame]) -> pd.DataFrame:
    """The dataset's lesion-free images; where they are few, also labelled training images with the lesion removed."""
    rows = []
    for id in parts.backgrounds:
        target = folder / "images" / f"{id}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.move(staging / "images" / f"{id}.png", target)
        rows.append({"id": id, "source": "normal", "group": parts.groups[id], "sha256": sha256(target)})
    for id in labelled if len(parts.backgrounds) < ENOUGH_NORMAL else ():
        image, mask = read_image(staging / "images" / f"{id}.png"), read_mask(staging / "masks" / f"{id}.png")
        filled = remove_lesion(image, mask, frames[id].mask(len(image)))
        if filled is not None:
            target = folder / "images" / f"{id}_removed.png"
            write_image(target, filled)
            rows.append({"id": target.stem, "source": f"removed:{id}", "group": parts.groups[id], "sha256": sha256(target)})
    if not rows:
        raise MeddiffError("prepare", "there must be a background; no image is lesion-free, each labelled lesion too large",
                           "Add lesion-free images, or raise `prepare.n_labelled`")
    table = pd.DataFrame(rows)
    table.to_csv(folder / "backgrounds.csv", index=False, lineterminator="\n")
    return table


def _counts(raw: list[RawCase], staged: list[Staged], parts: Split, labelled: tuple[str, ...], pairs: NDArray[np.intp],
            removed: int) -> dict[str, float]:
    tried = len(labelled) if len(parts.backgrounds) < ENOUGH_NORMAL else 0
    return {"images": len(raw), **{part: len(ids) for part, ids in parts.parts.items()}, "labelled": len(labelled),
            "groups": len(set(parts.groups.values())), "near_duplicate_pairs": len(pairs),
            "left_out_unannotated": len(raw) - len(staged), "left_out_vanished": sum(case.vanished for case in staged),
            "left_out_duplicates": len(parts.dropped), "left_out_lesion_free": len(parts.dropped_backgrounds),
            "empty_masks": sum(not case.lesion and not case.vanished and not case.raw.lesion_free for case in staged),
            "backgrounds_normal": len(parts.backgrounds), "backgrounds_removed": removed, "lesions_not_removed": tried - removed}


def _tell(counts: dict[str, float], settings: PrepareParams) -> None:
    """What a user must know of the split, one line each."""
    lines = ["{train} training ({labelled} labelled), {val} validation and {test} test cases; "
             "backgrounds: {backgrounds_normal} lesion-free images, {backgrounds_removed} with the lesion removed"]
    notes = {"left_out_unannotated": "images left out: they have no annotation",
             "left_out_vanished": "cases left out: their lesion is smaller than a pixel at this size",
             "left_out_duplicates": "cases left out: near-duplicates of cases in a later part of the dataset's own split",
             "left_out_lesion_free": "lesion-free images left out: a relative or near-duplicate is in validation or test",
             "empty_masks": "masks are empty: their images count as lesion-free",
             "lesions_not_removed": "labelled lesions not removed: too large, or no lesion-free place fits"}
    lines += [f"{{{name}}} {note}" for name, note in notes.items() if counts[name]]
    if counts["labelled"] < settings.n_labelled:
        lines.append(f"`prepare.n_labelled` is {settings.n_labelled}; there are {{labelled}} training cases, all are labelled")
    for line in lines:
        print(f"prepare: {line.format(**counts)}", file=sys.stderr)
